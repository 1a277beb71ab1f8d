"""Residual quantisation on one grid: R codes per position, one codebook.

Each code is the nearest to what the codes before it left over, and the
feature is their sum (RQ-VAE, arXiv 2203.01941, section 3.1).
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.tokenizers import nearest
from varjax.tokenizers.base import Quantized
from varjax.tokenizers.grid import CodebookQuantizer, to_grid, to_rows
from varjax.types import Codes


@flax.struct.dataclass
class ResidualQuantizer(CodebookQuantizer):
  """With a codebook; codes are int32 [B, L, R]."""

  def quantize(self, f: Float[Array, 'B P P C']) -> Quantized:
    """Training forward with the cumulative commitment loss.

    The mean over r of mse(e_r, sg(z)) + commitment * mse(sg(e_r), z), e_r
    being the sum of the first r codes of a position (RQ-VAE, equation 8).
    RQ-VAE moves its codebook by averages instead of the first term; it sums
    over r, the mean keeps the weight's meaning when R changes.
    """
    z = to_rows(f)
    fixed = jax.lax.stop_gradient
    codes, searched = self._search(fixed(z))
    sums = self._sums(codes)
    loss = jnp.float32(0)
    for total in sums:
      loss += jnp.mean(jnp.square(total - fixed(z)))
      loss += self.spec.commitment * jnp.mean(jnp.square(fixed(total) - z))
    return Quantized(
      features=to_grid(z + fixed(sums[-1] - z), self.spec.grids[-1]),
      loss=loss / len(sums),
      codes=codes,
      searched=searched,
    )

  def encode(self, f: Float[Array, 'B P P C']) -> Codes:
    """Codes [B, L, R], coarse to fine at each position."""
    return self._search(to_rows(f))[0]

  def embed(self, codes: Int[Array, 'B T R']) -> Float[Array, 'B T C']:
    """The sum of the code vectors of each position, of any number of them."""
    return jnp.sum(self.codebook[codes], 2)

  def partial_sums(self, codes: Codes) -> list[Float[Array, 'B P P C']]:
    """Features from the first 1, 2, ... R codes of every position."""
    return [to_grid(rows, self.spec.grids[-1]) for rows in self._sums(codes)]

  def decode(self, codes: Codes) -> Float[Array, 'B P P C']:
    """Codes [B, L, R] to the features that the decoder reads."""
    return self.partial_sums(codes)[-1]

  def _search(
    self, z: Float[Array, 'B L C']
  ) -> tuple[Codes, Float[Array, 'B L R C']]:
    table = jax.lax.stop_gradient(self.codebook)
    codes, searched, rest = [], [], z
    for _ in range(self.spec.codes_per_position):
      code = nearest.nearest(rest, table)
      codes.append(code)
      searched.append(rest)
      rest -= table[code]
    return jnp.stack(codes, -1), jnp.stack(searched, 2)

  def _sums(self, codes: Codes) -> list[Float[Array, 'B L C']]:
    sums, total = [], jnp.float32(0)
    for level in range(codes.shape[-1]):
      total += self.codebook[codes[..., level]]
      sums.append(total)
    return sums

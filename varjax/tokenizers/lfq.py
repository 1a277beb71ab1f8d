"""Lookup-free quantisation: a code is the signs of its channels.

The vocabulary 2^C needs no table, so it can be large (MAGVIT-v2, arXiv
2310.05737, section 3.1). An entropy penalty takes the place of a codebook
that moves.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.tokenizers import bits
from varjax.tokenizers.base import Quantized
from varjax.tokenizers.grid import GridQuantizer, to_grid, to_rows
from varjax.types import Codes


@flax.struct.dataclass
class LookupFreeQuantizer(GridQuantizer):
  """Without weights; codes are int32 [B, L, R]."""

  def quantize(self, f: Float[Array, 'B P P C']) -> Quantized:
    """Training forward (MAGVIT-v2, equations 3 to 5).

    The loss is commitment * mse(sg(sign(z)), z), plus the entropy penalty.
    """
    spec, z = self.spec, self._normal(to_rows(f))
    magnitude = self._magnitude
    signs = z > 0
    chosen = bits.to_values(signs, magnitude)
    loss = spec.commitment * jnp.mean(jnp.square(chosen - z))
    if spec.entropy:
      loss += spec.entropy * bits.entropy_penalty(
        z,
        magnitude,
        spec.entropy_temperature,
        spec.entropy_diversity,
        spec.entropy_bits,
      )
    through = z + jax.lax.stop_gradient(chosen - z)
    return Quantized(
      features=to_grid(through, spec.grids[-1]),
      loss=loss,
      codes=bits.pack(signs, spec.codes_per_position),
    )

  def encode(self, f: Float[Array, 'B P P C']) -> Codes:
    """The signs of the features as codes [B, L, R]."""
    return bits.pack(to_rows(f) > 0, self.spec.codes_per_position)

  def embed(self, codes: Int[Array, 'B T R']) -> Float[Array, 'B T C']:
    """Codes as the decoder reads them: plus or minus the magnitude."""
    count = self.spec.code_dim // self.spec.codes_per_position
    return bits.to_values(bits.unpack(codes, count), self._magnitude)

  @property
  def _magnitude(self) -> float:
    return 1.0

  def _normal(self, z: Float[Array, 'B L C']) -> Float[Array, 'B L C']:
    return z

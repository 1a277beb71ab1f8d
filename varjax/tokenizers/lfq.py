"""Lookup-free quantisation: a code is the signs of its channels.

The vocabulary 2^C needs no table, so it can be large (MAGVIT-v2, arXiv
2310.05737, section 3.1). An entropy penalty takes the place of a codebook
that moves.
"""

from __future__ import annotations

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.spec import TokenizerSpec
from varjax.tokenizers import bits
from varjax.tokenizers.base import Quantized
from varjax.tokenizers.vq import to_grid, to_rows
from varjax.types import Codes, PyTree


@flax.struct.dataclass
class LookupFreeQuantizer:
  """A `tokenizers.base.Quantizer` without weights; codes [B, L, R]."""

  spec: TokenizerSpec = flax.struct.field(pytree_node=False)

  @classmethod
  def init(cls, spec: TokenizerSpec, rng: jax.Array) -> PyTree:
    """No weights."""
    del spec, rng
    return {}

  @classmethod
  def bind(cls, spec: TokenizerSpec, weights: PyTree) -> Self:
    """The quantizer of a spec."""
    del weights
    return cls(spec)

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

  def partial_sums(self, codes: Codes) -> list[Float[Array, 'B P P C']]:
    """One entry: the codes of a position are parts, not refinements."""
    return [self.decode(codes)]

  def decode(self, codes: Codes) -> Float[Array, 'B P P C']:
    """Codes [B, L, R] to the features that the decoder reads."""
    return to_grid(self.embed(codes), self.spec.grids[-1])

  @property
  def _magnitude(self) -> float:
    return 1.0

  def _normal(self, z: Float[Array, 'B L C']) -> Float[Array, 'B L C']:
    return z

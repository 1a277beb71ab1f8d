"""Vector quantisation on one grid: each position is its nearest code.

VQGAN (arXiv 2012.09841), and with `znorm` and a small `code_dim` the
tokenizer of LlamaGen (arXiv 2406.06525, section 3.1; ViT-VQGAN, arXiv
2110.04627): features and codes then have unit length.
"""

from __future__ import annotations

from typing import Self

import einops
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.spec import TokenizerSpec
from varjax.tokenizers import codebook as codebooks
from varjax.tokenizers import nearest
from varjax.tokenizers.base import Quantized
from varjax.types import Codes, PyTree


@flax.struct.dataclass
class VectorQuantizer:
  """A `tokenizers.base.Quantizer`; codes are int32 [B, L, 1]."""

  codebook: jax.Array  # [V, C]
  spec: TokenizerSpec = flax.struct.field(pytree_node=False)

  @classmethod
  def init(cls, spec: TokenizerSpec, rng: jax.Array) -> PyTree:
    """A fresh codebook."""
    return {'embedding': codebooks.init(spec, rng)}

  @classmethod
  def bind(cls, spec: TokenizerSpec, weights: PyTree) -> Self:
    """The quantizer of a spec with these weights."""
    return cls(weights['embedding'], spec)

  def quantize(self, f: Float[Array, 'B P P C']) -> Quantized:
    """Training forward (VQGAN, equation 4; LlamaGen's code for `znorm`).

    The loss is mse(e, sg(z)) + commitment * mse(sg(e), z), z being the
    feature and e its code, plus the entropy penalty if there is one.
    """
    spec = self.spec
    z, entries = self._normal(to_rows(f)), self._normal(self.codebook)
    codes = self._search(z)
    chosen = entries[codes]
    fixed = jax.lax.stop_gradient
    loss = jnp.mean(jnp.square(chosen - fixed(z)))
    loss += spec.commitment * jnp.mean(jnp.square(fixed(chosen) - z))
    if spec.entropy:
      loss += spec.entropy * codebooks.entropy_penalty(
        einops.rearrange(z, 'b l c -> (b l) c'),
        entries,
        spec.entropy_temperature,
        spec.entropy_diversity,
      )
    features = z + fixed(chosen - z)
    return Quantized(
      features=to_grid(features, spec.grids[-1]),
      loss=loss,
      codes=codes[..., None],
      searched=fixed(z)[:, :, None],
    )

  def encode(self, f: Float[Array, 'B P P C']) -> Codes:
    """The nearest codes [B, L, 1], rows of the grid first."""
    return self._search(self._normal(to_rows(f)))[..., None]

  def embed(self, codes: Int[Array, 'B T 1']) -> Float[Array, 'B T C']:
    """Code vectors as the decoder reads them."""
    return self._normal(self.codebook[codes[..., 0]])

  def partial_sums(self, codes: Codes) -> list[Float[Array, 'B P P C']]:
    """One entry: there is one scale."""
    return [self.decode(codes)]

  def decode(self, codes: Codes) -> Float[Array, 'B P P C']:
    """Codes [B, L, 1] to the features that the decoder reads."""
    return to_grid(self.embed(codes), self.spec.grids[-1])

  def _search(self, z: Float[Array, 'B L C']) -> Int[Array, 'B L']:
    fixed = jax.lax.stop_gradient
    return nearest.nearest(fixed(z), fixed(self.codebook), self.spec.znorm)

  def _normal(self, vectors: jax.Array) -> jax.Array:
    return nearest.unit(vectors) if self.spec.znorm else vectors


def to_rows(f: Float[Array, 'B H W C']) -> Float[Array, 'B L C']:
  """A grid of features as float32 rows."""
  return einops.rearrange(f.astype(jnp.float32), 'b h w c -> b (h w) c')


def to_grid(
  rows: Float[Array, 'B L C'], grid: tuple[int, int]
) -> Float[Array, 'B H W C']:
  """The inverse of `to_rows`."""
  return einops.rearrange(rows, 'b (h w) c -> b h w c', h=grid[0], w=grid[1])

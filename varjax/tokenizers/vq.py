"""Vector quantisation on one grid: each position is its nearest code.

VQGAN (arXiv 2012.09841), and with `znorm` and a small `code_dim` the
tokenizer of LlamaGen (arXiv 2406.06525, section 3.1; ViT-VQGAN, arXiv
2110.04627): features and codes then have unit length.
"""

from __future__ import annotations

import einops
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.tokenizers import codebook as codebooks
from varjax.tokenizers import nearest
from varjax.tokenizers.base import Quantized
from varjax.tokenizers.grid import CodebookQuantizer, to_grid, to_rows
from varjax.types import Codes


@flax.struct.dataclass
class VectorQuantizer(CodebookQuantizer):
  """With a codebook; codes are int32 [B, L, 1]."""

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

  def _search(self, z: Float[Array, 'B L C']) -> Int[Array, 'B L']:
    fixed = jax.lax.stop_gradient
    return nearest.nearest(fixed(z), fixed(self.codebook), self.spec.znorm)

  def _normal(self, vectors: jax.Array) -> jax.Array:
    return nearest.unit(vectors) if self.spec.znorm else vectors

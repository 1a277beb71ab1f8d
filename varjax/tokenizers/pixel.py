"""Pixels as codes: every channel value, or the nearest colour of a palette.

For next-pixel prediction (ImageGPT, Chen et al. 2020; PixelCNN, 1606.05328).
There is no network and nothing is trained by gradients: kind 'pixel' loses
nothing and has no weights; kind 'palette' has a table of colours, found by
k-means over the pixels of a training set.
"""

from __future__ import annotations

import dataclasses
import functools

import einops
from flax.core import meta
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
import numpy as np
from scipy.cluster import vq

from varjax.spec import TokenizerSpec
from varjax.tokenizers.base import code_spec
from varjax.types import Codes, CodeSpec, PyTree


@dataclasses.dataclass(frozen=True)
class PixelTokenizer:
  """A `tokenizers.base.Tokenizer` whose codes are pixels.

  Attributes:
    spec: of kind 'pixel' (three codes of 256 values for each pixel) or
      'palette' (one code of `vocab` colours).
  """

  spec: TokenizerSpec

  @functools.cached_property
  def code_spec(self) -> CodeSpec:
    """One grid of pixels."""
    return code_spec(self.spec)

  def init(self, rng: jax.Array, resolution: int) -> PyTree:
    """No weights, or an evenly spread palette to be replaced."""
    del rng, resolution
    if self.spec.kind == 'pixel':
      return {}
    grey = jnp.linspace(-1, 1, self.spec.vocab)
    return {'palette': jnp.stack([grey] * 3, axis=-1)}

  def encode(self, params: PyTree, images: Float[Array, 'B H W 3']) -> Codes:
    """Images in [-1, 1] to int32 codes [B, H W, 3 | 1]."""
    pixels = einops.rearrange(images, 'b h w c -> b (h w) c')
    if self.spec.kind == 'pixel':
      values = jnp.round((pixels + 1) * 127.5)
      return jnp.clip(values, 0, 255).astype(jnp.int32)
    palette = meta.unbox(params['palette'])
    # |x - p|^2 without |x|^2, which does not change the nearest.
    away = jnp.sum(palette**2, axis=-1)[None, None] - 2 * jnp.einsum(
      'blc,vc->blv', pixels, palette, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.argmin(away, axis=-1).astype(jnp.int32)[..., None]

  def decode(self, params: PyTree, codes: Codes) -> Float[Array, 'B H W 3']:
    """Codes to images in [-1, 1]."""
    if self.spec.kind == 'pixel':
      pixels = codes.astype(jnp.float32) / 127.5 - 1
    else:
      pixels = jnp.take(meta.unbox(params['palette']), codes[..., 0], axis=0)
    height, width = self.code_spec.finest
    return einops.rearrange(pixels, 'b (h w) c -> b h w c', h=height, w=width)

  def decode_features(
    self, params: PyTree, features: Float[Array, 'B P P C']
  ) -> Float[Array, 'B H W 3']:
    """Features are colours already; clipped to [-1, 1]."""
    del params
    return jnp.clip(features, -1, 1)

  def quantizer(self, params: PyTree) -> PyTree:
    """The palette, or nothing."""
    return meta.unbox(params)


def fit_palette(
  images: UInt8[np.ndarray, 'B H W 3'], colours: int, seed: int
) -> Float[np.ndarray, 'V 3']:
  """Colours in [-1, 1] by k-means over all pixels (k-means++ start).

  Args:
    images: a sample of the training set.
    colours: size of the palette; colours that no pixel is nearest to stay
      where the start put them.
    seed: of the start.
  """
  pixels = images.reshape(-1, 3).astype(np.float64) / 127.5 - 1
  centres, _ = vq.kmeans2(pixels, colours, iter=20, minit='++', seed=seed)
  # Dark colours first, so that a palette is readable.
  return centres[np.argsort(centres.sum(axis=1))].astype(np.float32)

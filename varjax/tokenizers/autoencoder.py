"""The convolutional autoencoder with any quantizer in the middle.

Joins the network (`convnet`) and a quantizer (`QUANTIZERS`) into the
Tokenizer seam. The weights are a nested dict

  encoder, decoder             see `convnet`
  quant_conv, post_quant_conv  kernel, bias
  quantizer                    see the quantizer; absent when it has none

Source: the VQGAN network (arXiv 2012.09841) as VAR uses it (arXiv 2404.02905,
section 3.2 and the official code).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from flax import linen as nn
from flax.core import meta
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax import rng as rngs
from varjax.spec import TokenizerSpec
from varjax.tokenizers import convnet, msvq
from varjax.tokenizers.base import Quantizer, code_spec
from varjax.tokenizers.bsq import SphericalQuantizer
from varjax.tokenizers.fsq import ScalarQuantizer
from varjax.tokenizers.lfq import LookupFreeQuantizer
from varjax.tokenizers.rq import ResidualQuantizer
from varjax.tokenizers.vq import VectorQuantizer
from varjax.types import Codes, CodeSpec, PyTree

QUANTIZERS: dict[str, type[Quantizer]] = {
  'msvq': msvq.Quantizer,
  'vq': VectorQuantizer,
  'rq': ResidualQuantizer,
  'fsq': ScalarQuantizer,
  'lfq': LookupFreeQuantizer,
  'bsq': SphericalQuantizer,
}


@dataclasses.dataclass(frozen=True)
class Autoencoder:
  """A `tokenizers.base.Tokenizer`; weights are arguments of its methods.

  Every method takes boxed or plain weights. The network computes in
  `spec.compute_dtype`, the quantizer always in float32.

  Attributes:
    spec: the architecture; its kind is a key of `QUANTIZERS`.
  """

  spec: TokenizerSpec

  @functools.cached_property
  def code_spec(self) -> CodeSpec:
    """Grids and alphabet of the codes."""
    return code_spec(self.spec)

  def init(self, rng: jax.Array, resolution: int) -> PyTree:
    """Fresh weights (vaex initialisation), boxed with logical axis names.

    Args:
      rng: key.
      resolution: side of the images; the weights do not depend on it.
    """
    images = jnp.zeros((1, resolution, resolution, 3))
    side = resolution // self.spec.downsample
    features = jnp.zeros((1, side, side, self.spec.latent_channels))
    codes = jnp.zeros((1, side, side, self.spec.code_dim))
    inputs = {
      'encoder': (self._encoder, images),
      'decoder': (self._decoder, features),
      'quant_conv': (self._quant_conv, features),
      'post_quant_conv': (self._post_quant_conv, codes),
    }
    params = {
      name: module.init(rng, x)['params']
      for name, (module, x) in inputs.items()
    }
    weights = self._quantizer.init(self.spec, rngs.stream(rng, 'codebook'))
    if weights:
      params['quantizer'] = weights
    return convnet.draw_kernels(params, rngs.stream(rng, 'kernels'))

  def encode(self, params: PyTree, images: Float[Array, 'B H W 3']) -> Codes:
    """Images in [-1, 1] to int32 codes [B, L, R], coarse to fine."""
    features = self.encode_features(params, images)
    return self.quantizer(params).encode(features)

  def decode(self, params: PyTree, codes: Codes) -> Float[Array, 'B H W 3']:
    """Codes [B, L, R] to images, clipped to [-1, 1]."""
    features = self.quantizer(params).decode(codes)
    return self.decode_features(params, features)

  def decode_features(
    self, params: PyTree, features: Float[Array, 'B P P C']
  ) -> Float[Array, 'B H W 3']:
    """Summed code features to images, clipped to [-1, 1]."""
    return jnp.clip(self.decode_unclipped(params, features), -1, 1)

  def quantizer(self, params: PyTree) -> Any:
    """The weights that turn codes into features: a `base.Quantizer`."""
    weights = meta.unbox(params.get('quantizer', {}))
    return self._quantizer.bind(self.spec, weights)

  def encode_features(
    self,
    params: PyTree,
    images: Float[Array, 'B H W 3'],
    dropout_rng: jax.Array | None = None,
  ) -> Float[Array, 'B P P C']:
    """Images to the features that are quantised, float32.

    Args:
      params: weights.
      images: in [-1, 1].
      dropout_rng: key of the dropout; None is deterministic.
    """
    with jax.named_scope('encoder'):
      x = _apply(self._encoder, params['encoder'], images, dropout_rng)
      x = _apply(self._quant_conv, params['quant_conv'], x)
      return x.astype(jnp.float32)

  def decode_unclipped(
    self,
    params: PyTree,
    features: Float[Array, 'B P P C'],
    dropout_rng: jax.Array | None = None,
  ) -> Float[Array, 'B H W 3']:
    """Features to images as the training loss sees them, not clipped."""
    with jax.named_scope('decoder'):
      x = _apply(self._post_quant_conv, params['post_quant_conv'], features)
      return _apply(self._decoder, params['decoder'], x, dropout_rng)

  def partial_images(
    self, params: PyTree, codes: Codes
  ) -> Float[Array, 'K B H W 3']:
    """The image after each scale; the last is `decode`'s.

    With several codes per position on one grid, after each code of them.
    """
    sums = self.quantizer(params).partial_sums(codes)
    # One scale at a time: the decoder's activations are the large part.
    return jax.lax.map(
      functools.partial(self.decode_features, params), jnp.stack(sums)
    )

  @functools.cached_property
  def _encoder(self) -> convnet.Encoder:
    return convnet.Encoder(self.spec, self._dtype)

  @functools.cached_property
  def _decoder(self) -> convnet.Decoder:
    return convnet.Decoder(self.spec, self._dtype)

  @functools.cached_property
  def _quant_conv(self) -> nn.Conv:
    return self._conv(self.spec.code_dim)

  @functools.cached_property
  def _post_quant_conv(self) -> nn.Conv:
    return self._conv(self.spec.latent_channels)

  def _conv(self, channels: int) -> nn.Conv:
    size, axes = self.spec.quant_conv_size, (None, None)
    return convnet.conv(channels, size, self._dtype, axes=axes)

  @property
  def _dtype(self) -> Any:
    return jnp.dtype(self.spec.compute_dtype)

  @property
  def _quantizer(self) -> type[Quantizer]:
    return QUANTIZERS[self.spec.kind]


def _apply(
  module: nn.Module,
  params: PyTree,
  x: jax.Array,
  dropout_rng: jax.Array | None = None,
) -> jax.Array:
  variables = {'params': meta.unbox(params)}
  if dropout_rng is None:
    return module.apply(variables, x)
  return module.apply(
    variables, x, deterministic=False, rngs={'dropout': dropout_rng}
  )

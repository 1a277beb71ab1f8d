"""The multi-scale VQ-VAE of VAR: images to codes of every scale and back.

Joins the convolutional network (`convnet`) and the quantiser (`msvq`) into
the Tokenizer seam. The weights are a nested dict

  encoder, decoder           see `convnet`
  quant_conv, post_quant_conv  kernel, bias
  quantizer                  embedding [V, C], phi {kernel [n, 3, 3, C, C],
                             bias [n, C]}, phi absent when its ratio is 0

Source: arXiv 2404.02905 section 3.2 and the official code.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from varjax.types import Codes, CodeSpec, PyTree

# Half width of the codebook's uniform initialisation, times sqrt(C).
_CODEBOOK_WIDTH = 1 / 36


@dataclasses.dataclass(frozen=True)
class MultiScaleVQVAE:
  """A `tokenizers.base.Tokenizer`; weights are arguments of its methods.

  Every method takes boxed or plain weights.

  Attributes:
    spec: the architecture.
    dtype: of the network's arithmetic; the quantiser is always float32.
  """

  spec: TokenizerSpec
  dtype: Any = jnp.float32

  @functools.cached_property
  def code_spec(self) -> CodeSpec:
    """Grids and alphabet of the codes."""
    return CodeSpec(self.spec.grids, self.spec.vocab, self.spec.code_dim)

  def init(self, rng: jax.Array, resolution: int) -> PyTree:
    """Fresh weights (vaex initialisation), boxed with logical axis names.

    Args:
      rng: key.
      resolution: side of the images; the weights do not depend on it.
    """
    images = jnp.zeros((1, resolution, resolution, 3))
    side = resolution // self.spec.downsample
    features = jnp.zeros((1, side, side, self.spec.code_dim))
    inputs = {
      'encoder': (self._encoder, images),
      'decoder': (self._decoder, features),
      'quant_conv': (self._quant_conv, features),
      'post_quant_conv': (self._quant_conv, features),
    }
    params = {
      name: module.init(rng, x)['params']
      for name, (module, x) in inputs.items()
    }
    params['quantizer'] = self._init_quantizer(rngs.stream(rng, 'codebook'))
    return convnet.draw_kernels(params, rngs.stream(rng, 'kernels'))

  def encode(self, params: PyTree, images: Float[Array, 'B H W 3']) -> Codes:
    """Images in [-1, 1] to int32 codes [B, L, 1], coarse to fine."""
    features = self.encode_features(params, images)
    return msvq.encode(self.quantizer(params), features)

  def decode(self, params: PyTree, codes: Codes) -> Float[Array, 'B H W 3']:
    """Codes [B, L, 1] to images, clipped to [-1, 1]."""
    features = msvq.sum_codes(self.quantizer(params), codes)
    return self.decode_features(params, features)

  def decode_features(
    self, params: PyTree, features: Float[Array, 'B P P C']
  ) -> Float[Array, 'B H W 3']:
    """Summed code features to images, clipped to [-1, 1]."""
    return jnp.clip(self.decode_unclipped(params, features), -1, 1)

  def quantizer(self, params: PyTree) -> msvq.Quantizer:
    """The weights that turn codes into features, float32."""
    spec = self.spec
    weights = meta.unbox(params['quantizer'])
    dim = spec.code_dim
    none = {
      'kernel': jnp.zeros((0, 3, 3, dim, dim)),
      'bias': jnp.zeros((0, dim)),
    }
    phi = weights.get('phi', none)
    return msvq.Quantizer(
      codebook=weights['embedding'],
      phi_kernel=phi['kernel'],
      phi_bias=phi['bias'],
      grids=spec.grids,
      phi_count=spec.phi_count,
      phi_ratio=spec.phi_ratio,
      znorm=spec.znorm,
    )

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
    x = _apply(self._quant_conv, params['post_quant_conv'], features)
    return _apply(self._decoder, params['decoder'], x, dropout_rng)

  def partial_images(
    self, params: PyTree, codes: Codes
  ) -> Float[Array, 'K B H W 3']:
    """The image after each number of scales; the last is `decode`'s."""
    sums = msvq.partial_sums(self.quantizer(params), codes)
    # One scale at a time: the decoder's activations are the large part.
    return jax.lax.map(
      functools.partial(self.decode_features, params), jnp.stack(sums)
    )

  def grow_images(self, params: PyTree, codes: Codes) -> list[Array]:
    """The growing images [B, h, w, 3] of upstream's experimental mode."""
    sums = msvq.grow_sums(self.quantizer(params), codes)
    return [self.decode_features(params, features) for features in sums]

  @functools.cached_property
  def _encoder(self) -> convnet.Encoder:
    return convnet.Encoder(self.spec, self.dtype)

  @functools.cached_property
  def _decoder(self) -> convnet.Decoder:
    return convnet.Decoder(self.spec, self.dtype)

  @functools.cached_property
  def _quant_conv(self) -> nn.Conv:
    size, axes = self.spec.quant_conv_size, (None, None)
    return convnet.conv(self.spec.code_dim, size, self.dtype, axes=axes)

  def _init_quantizer(self, rng: jax.Array) -> PyTree:
    spec, dim = self.spec, self.spec.code_dim
    half_width = dim**-0.5 * _CODEBOOK_WIDTH
    embedding = jax.random.uniform(
      rng,
      (spec.vocab, dim),
      minval=-half_width,
      maxval=half_width,
    )
    weights = {'embedding': _boxed(embedding, ('vocab', None))}
    count = msvq.phi_modules(len(spec.scales), spec.phi_count, spec.phi_ratio)
    if count:
      weights['phi'] = {
        'kernel': _boxed(jnp.zeros((count, 3, 3, dim, dim)), (None,) * 5),
        'bias': _boxed(jnp.zeros((count, dim)), (None, None)),
      }
    return weights


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


def _boxed(value: Any, names: Iterable[str | None]) -> nn.LogicallyPartitioned:
  return nn.LogicallyPartitioned(value, tuple(names))

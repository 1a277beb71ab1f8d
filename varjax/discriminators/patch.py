"""PatchGAN: one logit for each overlapping patch of an image.

The discriminator of pix2pix (Isola et al., arXiv 1611.07004), as VQGAN
(arXiv 2012.09841) trains tokenizers with it: strided 4 x 4 convolutions,
batch normalisation on all but the first and the last, leaky ReLU.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import einops
from flax import linen as nn
from flax.core import meta
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax import errors
from varjax.discriminators.norm import BatchStatNorm
from varjax.spec import AdversarialSpec
from varjax.types import PyTree

_SLOPE = 0.2
_STD = 0.02
# Channels stop growing at this multiple of the first layer's.
_MAX_MULTIPLE = 8


class _Network(nn.Module):
  """The convolutions; [B, H, W, 3] to [B, h, w, 1]."""

  ch: int
  layers: int
  dtype: Any

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    first = (None, 'conv_out')
    x = self._conv(self.ch, 2, 'conv_0', first)(images.astype(self.dtype))
    x = nn.leaky_relu(x, _SLOPE)
    for layer in range(1, self.layers + 1):
      width = self.ch * min(2**layer, _MAX_MULTIPLE)
      stride = 2 if layer < self.layers else 1
      x = self._conv(width, stride, f'conv_{layer}', use_bias=False)(x)
      x = BatchStatNorm(self.dtype, name=f'norm_{layer}')(x)
      x = nn.leaky_relu(x, _SLOPE)
    return self._conv(1, 1, 'conv_out', ('conv_in', None))(x)

  def _conv(
    self,
    features: int,
    stride: int,
    name: str,
    axes: tuple[str | None, str | None] = ('conv_in', 'conv_out'),
    use_bias: bool = True,
  ) -> nn.Conv:
    init = nn.initializers.normal(_STD)
    return nn.Conv(
      features,
      (4, 4),
      strides=stride,
      padding=1,
      use_bias=use_bias,
      dtype=self.dtype,
      kernel_init=nn.with_logical_partitioning(init, (None, None, *axes)),
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
      name=name,
    )


@dataclasses.dataclass(frozen=True)
class PatchDiscriminator:
  """A `discriminators.base.Discriminator` without state or frozen weights.

  Attributes:
    spec: `ch` and `layers` are read.
    resolution: side of the images.
    dtype: of the arithmetic.
  """

  spec: AdversarialSpec
  resolution: int
  dtype: Any = jnp.float32

  def __post_init__(self):
    if self.resolution // 2**self.spec.layers < 3:
      raise errors.ConfigError(
        f'reconstruct.adversarial.layers={self.spec.layers}: leaves no patch '
        f'of images of data.resolution={self.resolution}; the side over '
        '2**layers must be at least 3'
      )

  @functools.cached_property
  def _network(self) -> _Network:
    return _Network(self.spec.ch, self.spec.layers, self.dtype)

  def init(self, rng: jax.Array) -> tuple[PyTree, PyTree]:
    """Fresh weights, normal with deviation 0.02 (pix2pix)."""
    images = jnp.zeros((1, self.resolution, self.resolution, 3))
    return self._network.init(rng, images)['params'], {}

  def prepare(self, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """Nothing to prepare."""
    return meta.unbox(params), state

  def logits(
    self,
    weights: PyTree,
    frozen: PyTree,
    images: Float[Array, 'B H W 3'],
    rng: jax.Array,
  ) -> Float[Array, 'B patches']:
    """One logit for each patch, float32."""
    del frozen, rng
    grid = self._network.apply({'params': weights}, images)
    flat = einops.rearrange(grid.astype(jnp.float32), 'b h w 1 -> b (h w)')
    return flat

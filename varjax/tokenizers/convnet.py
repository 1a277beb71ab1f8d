"""Convolutional encoder and decoder of the tokenizer.

Pixels to a grid of features and back: the VQGAN network as VAR uses it
(arXiv 2404.02905, section 4 and official code), channels last. Module names
are the official ones with dots as underscores, so that weights convert by
name. Weights are float32; arithmetic runs in `dtype`, but normalisation
statistics and attention weights are always float32.
"""

from __future__ import annotations

from collections.abc import Callable
import itertools
import math
from typing import Any

import einops
from flax import linen as nn
from flax import traverse_util
from flax.core import meta
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.spec import TokenizerSpec
from varjax.tokenizers.enlarge import UpsampleConv
from varjax.types import PyTree

_GAIN = 0.5  # of the Xavier normal initialisation
_COARSE = 16  # side of the grid that a mean is first guessed from


def draw_kernels(params: PyTree, rng: jax.Array) -> PyTree:
  """Initialises every kernel: Xavier normal with gain 0.5 (official vaex).

  The modules start their kernels at zero and one long vector of normals is
  cut up here, because a draw per kernel takes ten times as long to compile.

  Args:
    params: nested dict, boxed or not, leaves 'kernel' [..., k, k, in, out].
    rng: key.

  Returns:
    `params` with the leaves called 'kernel' replaced.
  """
  flat = traverse_util.flatten_dict(params)
  shapes = {
    path: meta.unbox(leaf).shape
    for path, leaf in flat.items()
    if path[-1] == 'kernel'
  }
  sizes = [math.prod(shape) for shape in shapes.values()]
  values = jnp.split(
    jax.random.normal(rng, (sum(sizes),)), list(itertools.accumulate(sizes))
  )
  for (path, shape), value in zip(shapes.items(), values, strict=False):
    height, width, fan_in, fan_out = shape[-4:]
    std = _GAIN * math.sqrt(2 / (height * width * (fan_in + fan_out)))
    kernel, leaf = std * value.reshape(shape), flat[path]
    boxed = isinstance(leaf, meta.AxisMetadata)
    flat[path] = leaf.replace_boxed(kernel) if boxed else kernel
  return traverse_util.unflatten_dict(flat)


def conv(
  features: int,
  size: int,
  dtype: Any,
  name: str | None = None,
  axes: tuple[str | None, str | None] = ('conv_in', 'conv_out'),
  **kwargs: Any,
) -> nn.Conv:
  """A square convolution in the style of this network.

  Args:
    features: output channels.
    size: side of the kernel.
    dtype: of the arithmetic.
    name: of the module.
    axes: logical names of the kernel's channel axes; None where there are
      too few channels to shard.
    **kwargs: for `nn.Conv`; the default pads to keep the size.
  """
  kwargs.setdefault('padding', size // 2)
  return nn.Conv(
    features,
    (size, size),
    dtype=dtype,
    kernel_init=nn.with_logical_partitioning(
      nn.initializers.zeros,
      (None, None, *axes),  # see `draw_kernels`
    ),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
    name=name,
    **kwargs,
  )


class GroupNorm(nn.Module):
  """Group normalisation over contiguous channel groups, biased variance.

  The spatial axes are reduced before channels are grouped: on CPU that is
  several times faster than reducing [B, H W, groups, C / groups], backward
  most of all. Both moments of a channel come from one pass over the array, of
  its distance from the mean of a coarse grid of its pixels. With n of M pixels
  on that grid, the square of what is then subtracted is at most M / n times
  the variance, whatever the values are: float32 loses 8 bits at the worst at
  256 x 256, and none where the grid is no exception.
  """

  groups: int
  eps: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    channels = x.shape[-1]
    scale, bias = (
      self.param(
        name, nn.with_logical_partitioning(init, (None,)), (channels,)
      )
      for name, init in (
        ('scale', nn.initializers.ones), ('bias', nn.initializers.zeros),
      )
    )  # fmt: skip
    mean, variance = self._moments(x)
    gain = jax.lax.rsqrt(variance + self.eps) * scale[None, None, None]
    centred = x.astype(jnp.float32) - mean
    return (centred * gain + bias[None, None, None]).astype(self.dtype)

  def _moments(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance [B, 1, 1, C] of each channel's group, in float32."""
    rows, columns = (max(size // _COARSE, 1) for size in x.shape[1:3])
    coarse = x[:, ::rows, ::columns].astype(jnp.float32)
    near = jnp.mean(jax.lax.stop_gradient(coarse), (1, 2), keepdims=True)
    distance = x.astype(jnp.float32) - near
    first = jnp.mean(distance, (1, 2), keepdims=True)
    second = jnp.mean(jnp.square(distance), (1, 2), keepdims=True)
    means = near + first
    mean = self._over_groups(means)
    # What each channel varies, and how far its mean is from its group's.
    spread = second - jnp.square(first) + jnp.square(means - mean)
    return mean, self._over_groups(spread)

  def _over_groups(self, per_channel: jax.Array) -> jax.Array:
    """Means over the channels of each group, given to all of them."""
    channels = per_channel.shape[-1]
    if self.groups == channels:
      return per_channel
    grouped = einops.reduce(
      per_channel, 'b h w (g c) -> b h w g', 'mean', g=self.groups
    )
    return einops.repeat(
      grouped, 'b h w g -> b h w (g c)', c=channels // self.groups
    )


class ResBlock(nn.Module):
  """Two normalised convolutions and a shortcut."""

  features: int
  spec: TokenizerSpec
  dtype: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B H W C'], deterministic: bool
  ) -> Float[Array, 'B H W F']:
    x = _whole(x)
    h = _whole(nn.silu(_norm(self.spec, self.dtype, 'norm1')(x)))
    h = conv(
      self.features, 3, self.dtype, 'conv1', ('conv_outer', 'conv_inner')
    )(h)
    h = nn.with_logical_constraint(h, ('batch', None, None, 'conv_inner'))
    h = nn.silu(_norm(self.spec, self.dtype, 'norm2')(h))
    h = nn.with_logical_constraint(h, ('batch', None, None, 'conv_inner'))
    h = nn.Dropout(self.spec.dropout)(h, deterministic=deterministic)
    h = conv(
      self.features, 3, self.dtype, 'conv2', ('conv_inner', 'conv_outer')
    )(h)
    h = _whole(h)
    if x.shape[-1] != self.features:
      x = _whole(conv(self.features, 1, self.dtype, 'nin_shortcut')(x))
    return x + h


class AttnBlock(nn.Module):
  """Single-head self-attention over all positions of a grid."""

  spec: TokenizerSpec
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    height, width, channels = x.shape[1:]
    x = _whole(x)
    h = _whole(_norm(self.spec, self.dtype, 'norm')(x))
    h = _whole(conv(3 * channels, 1, self.dtype, 'qkv')(h))
    q, k, v = jnp.split(einops.rearrange(h, 'b h w c -> b (h w) c'), 3, axis=-1)
    scores = jnp.einsum(
      'bqc,bkc->bqk', q, k, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores * channels**-0.5).astype(self.dtype)
    h = jnp.einsum('bqk,bkc->bqc', weights, v)
    h = einops.rearrange(h, 'b (h w) c -> b h w c', h=height, w=width)
    return x + _whole(conv(channels, 1, self.dtype, 'proj_out')(h))


class Encoder(nn.Module):
  """Images to features, down-sampled by `spec.downsample`."""

  spec: TokenizerSpec
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, images: Float[Array, 'B H W 3'], deterministic: bool = True
  ) -> Float[Array, 'B h w C']:
    spec, dtype = self.spec, self.dtype
    last = len(spec.ch_mult) - 1
    x = images.astype(dtype)
    x = conv(spec.ch, 3, dtype, 'conv_in', (None, 'conv_out'))(x)
    for level, multiplier in enumerate(spec.ch_mult):
      for block in range(spec.num_res_blocks):
        name = f'down_{level}_block_{block}'
        x = ResBlock(spec.ch * multiplier, spec, dtype, name=name)(
          x, deterministic
        )
        if level == last and spec.attention:
          x = AttnBlock(spec, dtype, name=f'down_{level}_attn_{block}')(x)
      if level < last:
        # One row and column of zeros, below and to the right only.
        x = conv(
          x.shape[-1], 3, dtype, f'down_{level}_downsample_conv',
          strides=2, padding=((0, 1), (0, 1)),
        )(x)  # fmt: skip
        x = _whole(x)
    x = _middle(spec, dtype, deterministic)(x)
    x = nn.silu(_norm(spec, dtype, 'norm_out')(x))
    channels = spec.latent_channels
    return conv(channels, 3, dtype, 'conv_out', ('conv_in', None))(x)


class Decoder(nn.Module):
  """Features to images, not clipped; levels are numbered from the finest."""

  spec: TokenizerSpec
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, features: Float[Array, 'B h w C'], deterministic: bool = True
  ) -> Float[Array, 'B H W 3']:
    spec, dtype = self.spec, self.dtype
    last = len(spec.ch_mult) - 1
    x = features.astype(dtype)
    width = spec.ch * spec.ch_mult[last]
    x = conv(width, 3, dtype, 'conv_in', (None, 'conv_out'))(x)
    x = _middle(spec, dtype, deterministic)(x)
    for level in reversed(range(last + 1)):
      for block in range(spec.num_res_blocks + 1):
        name = f'up_{level}_block_{block}'
        x = ResBlock(spec.ch * spec.ch_mult[level], spec, dtype, name=name)(
          x, deterministic
        )
        if level == last and spec.attention:
          x = AttnBlock(spec, dtype, name=f'up_{level}_attn_{block}')(x)
      if level:
        x = _whole(UpsampleConv(dtype, name=f'up_{level}_upsample_conv')(x))
    x = nn.silu(_norm(spec, dtype, 'norm_out')(x))
    x = conv(3, 3, dtype, 'conv_out', ('conv_in', None))(x)
    return x.astype(jnp.float32)


def _middle(
  spec: TokenizerSpec, dtype: Any, deterministic: bool
) -> Callable[[jax.Array], jax.Array]:
  """The blocks between the two halves; call it inside a compact method."""

  def apply(x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    x = ResBlock(width, spec, dtype, name='mid_block_1')(x, deterministic)
    if spec.attention:
      x = AttnBlock(spec, dtype, name='mid_attn_1')(x)
    return ResBlock(width, spec, dtype, name='mid_block_2')(x, deterministic)

  return apply


def _whole(x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
  """Channels whole on every device of the tensor axis."""
  return nn.with_logical_constraint(x, ('batch', None, None, None))


def _norm(spec: TokenizerSpec, dtype: Any, name: str) -> GroupNorm:
  return GroupNorm(spec.norm_groups, spec.norm_eps, dtype, name=name)

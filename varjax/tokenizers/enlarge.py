"""Enlarging twice by repetition and a convolution 3 x 3, as one layer.

Between the levels of the decoder (`convnet`): the up-sampling of VQGAN
(arXiv 2012.09841), with the weights of its convolution.
"""

from __future__ import annotations

from typing import Any

import einops
from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class UpsampleConv(nn.Module):
  """Enlarges twice by repetition, then convolves 3 x 3, in one step.

  A pixel of the result sees two by two of the small array, through sums of
  the kernel's taps: 16 products do for 36. On a CPU the two steps are faster.
  """

  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B H W C']:
    channels = x.shape[-1]
    kernel = self.param(
      'kernel',
      nn.with_logical_partitioning(
        nn.initializers.zeros,
        (None, None, 'conv_in', 'conv_out'),  # see `convnet.draw_kernels`
      ),
      (3, 3, channels, channels),
    )
    bias = self.param(
      'bias',
      nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
      (channels,),
    )
    return jax.lax.platform_dependent(
      x.astype(self.dtype), kernel, bias, cpu=in_two_steps, default=in_one_step
    )


def in_two_steps(
  x: Float[Array, 'B h w C'],
  kernel: Float[Array, '3 3 C C'],
  bias: Float[Array, ' C'],
) -> Float[Array, 'B H W C']:
  """The definition of `UpsampleConv`, in the type of `x`."""
  return _convolved(
    einops.repeat(x, 'b h w c -> b (h 2) (w 2) c'), kernel, bias
  )


def in_one_step(
  x: Float[Array, 'B h w C'],
  kernel: Float[Array, '3 3 C C'],
  bias: Float[Array, ' C'],
) -> Float[Array, 'B H W C']:
  """`in_two_steps` but for rounding: four kernels 2 x 2 on the small array.

  They give the pixels that two by two of the small array lie around.
  """
  kernels = _two_taps(_two_taps(kernel, 0), 2)
  found = _convolved(
    x,
    einops.rearrange(kernels, 'i t j u c o -> t u c (i j o)'),
    jnp.tile(bias, 4),
  )
  found = einops.rearrange(found, 'b h w (i j c) -> b (h i) (w j) c', i=2, j=2)
  return found[:, 1:-1, 1:-1]  # What lies outside of the image.


def _two_taps(kernel: jax.Array, axis: int) -> jax.Array:
  """An axis of three taps as [pixel, tap of two].

  Of a row that was enlarged twice, the pixels 2 p - 1 and 2 p see p - 1 and p
  of the small row.
  """
  first, middle, last = (jnp.take(kernel, tap, axis) for tap in range(3))
  pixels = [[first + middle, last], [first, middle + last]]
  return jnp.stack([jnp.stack(taps, axis) for taps in pixels], axis)


def _convolved(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """A biased convolution in the type of `x`, padded by one on every side."""
  found = jax.lax.conv_general_dilated(
    x, kernel.astype(x.dtype), (1, 1), ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip
  return found + bias.astype(x.dtype)[None, None, None]

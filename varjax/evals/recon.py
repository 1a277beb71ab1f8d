"""Reconstruction quality of a tokenizer, per image.

Images are float in [-1, 1], so the data range is 2; the value in dB equals
that of 8-bit images up to their rounding.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

_DATA_RANGE = 2.0
# Keeps a perfect reconstruction finite, at 116 dB; far below 8-bit rounding.
_MIN_MSE = 1e-11


def mse(
  images: Float[Array, '... H W 3'], reconstructions: Float[Array, '... H W 3']
) -> Float[Array, '...']:
  """Mean squared error of each image, over pixels and channels.

  Args:
    images: in [-1, 1].
    reconstructions: clipped to [-1, 1] by the caller.
  """
  return jnp.mean(jnp.square(images - reconstructions), (-3, -2, -1))


def psnr(
  images: Float[Array, '... H W 3'], reconstructions: Float[Array, '... H W 3']
) -> Float[Array, '...']:
  """Peak signal-to-noise ratio of each image in dB, data range 2.

  Averages over a set are means of these values, not the PSNR of a mean
  error.

  Args:
    images: in [-1, 1].
    reconstructions: clipped to [-1, 1] by the caller.
  """
  return psnr_of(mse(images, reconstructions))


def psnr_of(error: Float[Array, '...']) -> Float[Array, '...']:
  """PSNR in dB of a mean squared error, data range 2."""
  return 10 * jnp.log10(_DATA_RANGE**2 / jnp.maximum(error, _MIN_MSE))

"""Structural similarity of image pairs (Wang et al., 2004).

The original settings: a Gaussian window of 11x11 pixels with a deviation of
1.5, weighted (biased) moments, K1 = 0.01, K2 = 0.03; the mean over channels
and over the pixels that a whole window fits around.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

WINDOW, DEVIATION = 11, 1.5
_K1, _K2 = 0.01, 0.03


def ssim(
  images: Float[Array, 'B H W C'],
  others: Float[Array, 'B H W C'],
  data_range: float = 2.0,
) -> Float[Array, ' B']:
  """SSIM of each pair, differentiable; 1 for equal images.

  Args:
    images, others: sides of at least 11 pixels.
    data_range: greatest minus smallest possible value; 2 for [-1, 1].

  Raises:
    ValueError: a side below 11 pixels.
  """
  if min(images.shape[1:3]) < WINDOW:
    raise ValueError(
      f'images of {images.shape[1]}x{images.shape[2]} pixels have no SSIM; '
      f'a side needs at least {WINDOW}'
    )
  low, high = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
  mean_a, mean_b = _blur(images), _blur(others)
  square_a = _blur(images * images) - mean_a * mean_a
  square_b = _blur(others * others) - mean_b * mean_b
  product = _blur(images * others) - mean_a * mean_b
  luminance = (2 * mean_a * mean_b + low) / (mean_a**2 + mean_b**2 + low)
  structure = (2 * product + high) / (square_a + square_b + high)
  return jnp.mean(luminance * structure, (1, 2, 3))


def _blur(x: jax.Array) -> jax.Array:
  """Weighted window means where a whole window fits; two banded products."""
  return jnp.einsum(
    'ih,bhwc,jw->bijc',
    _bands(x.shape[1]),
    x,
    _bands(x.shape[2]),
    precision=jax.lax.Precision.HIGHEST,
  )


def _bands(side: int) -> np.ndarray:
  offsets = np.arange(WINDOW) - WINDOW // 2
  weights = np.exp(-0.5 * (offsets / DEVIATION) ** 2)
  weights /= weights.sum()
  rows = np.zeros((side - WINDOW + 1, side), np.float32)
  for row in range(len(rows)):
    rows[row, row : row + WINDOW] = weights
  return rows

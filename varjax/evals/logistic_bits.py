"""Bits per dimension of an image, the tokenizer included.

A code model says how many bits the codes of an image take. What the decoder
makes of them is not the image, so those bits alone say nothing about images
and cannot be compared between tokenizers. With a distribution around the
decoded image they can: -log p(x) <= -log p(c(x)) - log p(x | c(x)), since
the codes of an image are one of all terms of the sum over codes. Here it is
a logistic around the decoded value, integrated over each of 256 values
(PixelCNN++, arXiv 1701.05517, equation 2), with one width per channel.
"""

from __future__ import annotations

import math

from jaxtyping import Float, UInt8
import numpy as np
from scipy import optimize, special

# Below this, in units of one value, the distribution is a spike.
_LEAST_WIDTH = 1e-2
_MOST_WIDTH = 256.0


def residual_nats(
  images: UInt8[np.ndarray, 'B H W 3'],
  decoded: Float[np.ndarray, 'B H W 3'],
  widths: Float[np.ndarray, ' 3'],
) -> Float[np.ndarray, ' B']:
  """Nats of images given what was decoded, over all their values.

  Args:
    images: 8-bit.
    decoded: in [-1, 1].
    widths: scale of the logistic of each channel, in 8-bit values.

  Returns:
    -log p(x | c) of each image; 0 where the decoder returns every image
    exactly, as that of pixels does.
  """
  centre = (np.asarray(decoded, np.float64) + 1) * 127.5
  if np.array_equal(np.rint(centre), images):
    return np.zeros(len(images))
  return _nats(images - centre, images, widths).sum(axis=(1, 2, 3))


def fit_widths(
  images: UInt8[np.ndarray, 'B H W 3'],
  decoded: Float[np.ndarray, 'B H W 3'],
) -> Float[np.ndarray, ' 3']:
  """The most likely width of each channel; for training images.

  Args:
    images: 8-bit.
    decoded: in [-1, 1].
  """
  away = images - (np.asarray(decoded, np.float64) + 1) * 127.5

  def cost(log_width: float, channel: int) -> float:
    part = (..., slice(channel, channel + 1))
    width = np.asarray([math.exp(log_width)])
    return float(_nats(away[part], images[part], width).mean())

  bounds = (math.log(_LEAST_WIDTH), math.log(_MOST_WIDTH))
  found = [
    optimize.minimize_scalar(cost, bounds=bounds, args=(c,), method='bounded')
    for c in range(images.shape[-1])
  ]
  return np.exp([result.x for result in found])


def bits_per_dim(
  nats: Float[np.ndarray, ' B'] | float, values: int
) -> Float[np.ndarray, ' B'] | float:
  """Nats of an image as bits for each of its `values` (H W 3)."""
  return nats / (math.log(2) * values)


def _nats(
  away: np.ndarray, images: np.ndarray, widths: np.ndarray
) -> np.ndarray:
  """-log of the mass of each value; the two ends have the open tails."""
  upper = np.where(images == 255, np.inf, (away + 0.5) / widths)
  lower = np.where(images == 0, -np.inf, (away - 0.5) / widths)
  # log(s(u) - s(l)) = log s(u) + log s(-l) + log(1 - exp(l - u))
  inside = np.log(-np.expm1(lower - upper))
  return -(special.log_expit(upper) + special.log_expit(-lower) + inside)

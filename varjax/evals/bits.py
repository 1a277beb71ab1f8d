"""Bits of an image given its reconstruction: the second half of a code.

A tokenizer is deterministic and lossy, so it gives an image no likelihood.
With a distribution of 8-bit pixels about the reconstruction it does: codes,
then residuals, is a lossless code of the image. Its length is an upper
bound of -log2 p(image) under the mixture p(image) = sum over codes of
p(codes) p(image | codes), of which it counts a single term.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.special

FAMILIES = ('laplace', 'gaussian')
# Far below half a pixel the mass of the nearest pixel is 1 either way.
_MIN_SCALE = 1e-2


@dataclasses.dataclass(frozen=True)
class Residual:
  """A distribution of pixels about their reconstruction.

  Attributes:
    family: of `FAMILIES`.
    scales: of each channel, in units of 8-bit pixels.
  """

  family: str
  scales: tuple[float, ...]

  def bits(self, images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Code length of each image, [n] float64.

    Args:
      images: uint8 [n, H, W, C].
      reconstructions: [n, H, W, C] in [0, 255], not rounded.
    """
    log_mass = _LOG_MASS[self.family]
    total = np.zeros(len(images))
    for channel, scale in enumerate(self.scales):
      x = images[..., channel].astype(np.float64)
      centre = np.asarray(reconstructions[..., channel], np.float64)
      total -= log_mass(x, centre, scale).sum((1, 2))
    return total / np.log(2)


def fit(images: np.ndarray, reconstructions: np.ndarray) -> Residual:
  """The family and scales that code these images best.

  Any result gives a valid code of other images; one fitted to the images
  that it is judged on does not, unless its scales are paid for.

  Args:
    images: uint8 [n, H, W, C] of the training split.
    reconstructions: [n, H, W, C] in [0, 255].
  """
  errors = images.astype(np.float64) - reconstructions
  absolute = np.abs(errors).mean((0, 1, 2))
  # A pixel stands for an interval of one, whose variance is 1/12.
  square = np.sqrt((errors**2).mean((0, 1, 2)) + 1 / 12)
  candidates = [
    Residual(family, tuple(np.maximum(scales, _MIN_SCALE).tolist()))
    for family, scales in (('laplace', absolute), ('gaussian', square))
  ]
  lengths = [c.bits(images, reconstructions).sum() for c in candidates]
  return candidates[int(np.argmin(lengths))]


def _log_laplace(x: np.ndarray, centre: np.ndarray, scale: float):
  """log P of pixel x: the mass of [x - 1/2, x + 1/2], open at 0 and 255."""
  low = (x - 0.5 - centre) / scale
  high = (x + 0.5 - centre) / scale
  low = np.where(x <= 0, -np.inf, low)
  high = np.where(x >= 255, np.inf, high)
  # By symmetry an interval below the centre is one above it.
  below = high < 0
  low, high = np.where(below, -high, low), np.where(below, -low, high)
  apart = np.maximum(low, 0)
  with np.errstate(divide='ignore'):  # An interval that ends at the centre.
    outside = -apart + np.log(-np.expm1(-(high - apart)) / 2)
  inside = np.log1p(
    -(np.exp(np.minimum(low, 0)) + np.exp(-np.maximum(high, 0))) / 2
  )
  return np.where(low >= 0, outside, inside)


def _log_gaussian(x: np.ndarray, centre: np.ndarray, scale: float):
  """As `_log_laplace`."""
  low = np.where(x <= 0, -np.inf, (x - 0.5 - centre) / scale)
  high = np.where(x >= 255, np.inf, (x + 0.5 - centre) / scale)
  # In the lower tail both logarithms are exact, and so is their difference.
  above = low > 0
  low, high = np.where(above, -high, low), np.where(above, -low, high)
  upper, lower = scipy.special.log_ndtr(high), scipy.special.log_ndtr(low)
  with np.errstate(divide='ignore'):
    share = np.log(-np.expm1(lower - upper))
  return upper + share


_LOG_MASS = {'laplace': _log_laplace, 'gaussian': _log_gaussian}

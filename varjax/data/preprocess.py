"""Images of any size to square crops (official VAR data code).

The paper's transforms: the shorter side is resized to
round(ratio * resolution) with a Lanczos filter, smaller images upwards, then
a random crop in training and the centre crop in validation.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from varjax import errors
from varjax.data import randomness
from varjax.spec import DataSpec


def train_crop(
  image: np.ndarray, spec: DataSpec, seed: int, epoch: int, example: int
) -> np.ndarray:
  """A random crop, and flip where `spec.flip` asks for one.

  Args:
    image: uint8 [H, W, 3].
    spec: resolution, resize_ratio and flip are read.
    seed, epoch, example: the crop depends on nothing else.

  Returns:
    uint8 [resolution, resolution, 3].

  Raises:
    DataError: resize_ratio is below 1, so that no crop fits.
  """
  top, left, flip = randomness.uniforms(seed, epoch, example, count=3)
  image = resize(image, spec)
  side = spec.resolution
  top = int(top * (image.shape[0] - side + 1))
  left = int(left * (image.shape[1] - side + 1))
  crop = image[top : top + side, left : left + side]
  if spec.flip and flip < 0.5:
    crop = crop[:, ::-1]
  return np.ascontiguousarray(crop)


def center_crop(image: np.ndarray, spec: DataSpec) -> np.ndarray:
  """The centre crop of the resized image, as in validation.

  Args:
    image: uint8 [H, W, 3].
    spec: resolution and resize_ratio are read.

  Returns:
    uint8 [resolution, resolution, 3].

  Raises:
    DataError: resize_ratio is below 1, so that no crop fits.
  """
  image = resize(image, spec)
  side = spec.resolution
  top = round((image.shape[0] - side) / 2)
  left = round((image.shape[1] - side) / 2)
  return np.ascontiguousarray(image[top : top + side, left : left + side])


def resize(image: np.ndarray, spec: DataSpec) -> np.ndarray:
  """Resizes the shorter side to round(resize_ratio * resolution).

  Args:
    image: uint8 [H, W, 3].
    spec: resolution and resize_ratio are read.

  Returns:
    uint8 [H, W, 3]; the longer side keeps the aspect ratio, rounded down.

  Raises:
    DataError: resize_ratio is below 1, so that no crop fits.
  """
  target = round(spec.resize_ratio * spec.resolution)
  if target < spec.resolution:
    raise errors.DataError(
      f'data.resize_ratio is {spec.resize_ratio}; it must be at least 1, or '
      'the crop does not fit into the resized image'
    )
  height, width = image.shape[:2]
  short = min(height, width)
  if short == target:
    return image
  size = (width * target // short, height * target // short)
  resized = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
  return np.asarray(resized)

"""Image files to RGB arrays: the first step of the data pipeline."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from varjax import errors

# Everything Pillow is known to raise on bytes that are not a whole image.
_PILLOW_ERRORS = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  IndexError,
  Image.DecompressionBombError,
)


def decode(encoded: bytes, where: str) -> np.ndarray:
  """Decodes one image file to RGB.

  Grey images are repeated over the three channels, transparent ones are
  composited on white, and of an animation the first frame is taken.

  Args:
    encoded: content of a PNG, JPEG, WebP, GIF, BMP or TIFF file.
    where: the file or record to name in errors.

  Returns:
    uint8 [H, W, 3].

  Raises:
    DataError: the bytes are not a whole image.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      return np.asarray(to_rgb(image))
  except _PILLOW_ERRORS as error:
    reason = str(error).partition(' <_io')[0]
    raise errors.DataError(
      f'{where}: not a readable image ({reason}); replace or remove it'
    ) from error


def to_rgb(image: Image.Image) -> Image.Image:
  """Any Pillow image as mode RGB, transparency composited on white."""
  if image.mode.startswith('I;16') or image.mode == 'I':
    # convert() would clip 16-bit grey values instead of scaling them.
    grey = np.clip(np.asarray(image).astype(np.int32) >> 8, 0, 255)
    return Image.fromarray(grey.astype(np.uint8)).convert('RGB')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(white, image).convert('RGB')
  return image.convert('RGB')

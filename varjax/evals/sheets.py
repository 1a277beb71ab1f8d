"""Picture sheets as PNG: grids of images, and reconstructions by scale."""

from __future__ import annotations

import math
import os
import pathlib

import einops
import numpy as np
import PIL.Image

# Small images are enlarged, by whole pixels, to about this side.
_SIDE = 96
_GAP = 2  # pixels of white between images


def image_grid(
  images: np.ndarray,
  path: str | os.PathLike[str],
  columns: int | None = None,
) -> None:
  """Writes images as one PNG, row by row, on white.

  Args:
    images: [n, H, W, 3] in [0, 1]; values outside are clipped.
    path: file to write; its folder is made.
    columns: images per row; None makes the sheet about square.

  Raises:
    ValueError: `images` is empty or of another shape.
  """
  images = np.asarray(images, np.float32)
  if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
    raise ValueError(f'images must be [n, H, W, 3], not {images.shape}')
  columns = columns or math.ceil(math.sqrt(len(images)))
  rows = math.ceil(len(images) / columns)
  blank = np.ones((rows * columns - len(images), *images.shape[1:]))
  tiles = _enlarge(np.concatenate([images, blank]))
  tiles = np.pad(
    tiles, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=1
  )
  sheet = einops.rearrange(
    tiles, '(r c) h w ch -> (r h) (c w) ch', r=rows, c=columns
  )[:-_GAP, :-_GAP]
  pixels = np.round(np.clip(sheet, 0, 1) * 255).astype(np.uint8)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.fromarray(pixels).save(path, format='PNG')


def reconstruction_sheet(
  images: np.ndarray,
  recon_per_scale: np.ndarray,
  path: str | os.PathLike[str],
) -> None:
  """Writes originals, reconstructions and what each scale adds, as rows.

  One column per image. Rows: the original, the reconstruction from all
  scales, then from the first scale alone, the first two, and so on.

  Args:
    images: [n, H, W, 3] in [0, 1].
    recon_per_scale: [K, n, H, W, 3] in [0, 1]; the last is complete.
    path: PNG file to write.
  """
  images = np.asarray(images, np.float32)
  partial = np.asarray(recon_per_scale, np.float32)
  rows = np.concatenate([images[None], partial[-1:], partial[:-1]])
  tiles = einops.rearrange(rows, 'k n h w c -> (k n) h w c')
  image_grid(tiles, path, columns=len(images))


def _enlarge(images: np.ndarray) -> np.ndarray:
  factor = max(1, _SIDE // max(images.shape[1:3]))
  return einops.repeat(images, 'n h w c -> n (h a) (w b) c', a=factor, b=factor)

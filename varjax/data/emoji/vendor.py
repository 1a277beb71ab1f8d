"""Writes `emoji32.npz`, the images that ship inside the package.

    python -m varjax.data.emoji.vendor emoji64.npz varjax/data/emoji/emoji32.npz

The input holds 64 x 64 WebP images of both emoji styles with their code
points (LICENSES.md names the packages they come from). Only images without
a skin tone are kept. They are reduced to 32 x 32 with a Lanczos filter, the
lowest bit of every value is set, which no eye can see and which saves a
sixth of the file, and what is left is stored as lossless WebP.
"""

from __future__ import annotations

import argparse
import io
import pathlib

import numpy as np
from PIL import Image

SIDE = 32


def vendor(source: pathlib.Path, target: pathlib.Path) -> int:
  """Converts the 64 x 64 collection to the vendored file.

  Args:
    source: .npz with webp, offsets, emoji, name, category, categories,
      style, styles and skin_tone.
    target: .npz to write, without pickled objects.

  Returns:
    The number of images written.
  """
  with np.load(source, allow_pickle=False) as arrays:
    tables = {key: arrays[key] for key in arrays.files}
  kept = np.flatnonzero(tables['skin_tone'] == 0)
  packed, offsets = tables['webp'].tobytes(), tables['offsets']
  images = [
    _reduce(packed[offsets[index] : offsets[index + 1]]) for index in kept
  ]
  np.savez_compressed(
    target,
    webp=np.frombuffer(b''.join(images), np.uint8),
    offsets=np.cumsum([0, *map(len, images)]).astype(np.int64),
    label=tables['category'][kept].astype(np.int8),
    labels=tables['categories'],
    style=tables['style'][kept].astype(np.int8),
    styles=tables['styles'],
    emoji=tables['emoji'][kept],
    name=tables['name'][kept],
  )
  return len(images)


def _reduce(encoded: bytes) -> bytes:
  image = Image.open(io.BytesIO(encoded)).convert('RGB')
  small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
  # Odd values only: white stays white, and the error is at most 1 of 255.
  coarse = Image.fromarray(np.asarray(small) | 1)
  buffer = io.BytesIO()
  coarse.save(buffer, 'WEBP', lossless=True, quality=75, method=4)
  return buffer.getvalue()


def main() -> None:
  """Command line of the module."""
  parser = argparse.ArgumentParser(description=vendor.__doc__)
  parser.add_argument('source', type=pathlib.Path)
  parser.add_argument('target', type=pathlib.Path)
  args = parser.parse_args()
  count = vendor(args.source, args.target)
  print(f'{args.target}: {count} images, {args.target.stat().st_size} bytes')


if __name__ == '__main__':
  main()

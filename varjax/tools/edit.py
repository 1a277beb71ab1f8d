"""`varjax edit`: in- and out-painting, class editing, super-resolution."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import pathlib

import numpy as np

from varjax import errors
from varjax.tools import arguments

_MODES = ('inpaint', 'outpaint', 'class', 'superres')
_NO_CLASS = -1
_EXAMPLES = """
examples:
  varjax edit --workdir runs/d16/model --image dog.jpg --mode inpaint \\
    --box 0.3,0.3,0.7,0.7 --label 207 --blend 4 --out edited.png
  varjax edit --workdir runs/d16/model --image dog.jpg --mode superres \\
    --label 207 --keep_scales 5 --out sharper.png
"""


def main(argv: list[str]) -> int:
  """Edits one image and writes a PNG; returns the exit code."""
  args = _arguments(argv)

  import jax

  from varjax import compilation
  from varjax.pipeline import VarPipeline
  from varjax.sampling import blend
  from varjax.workdir import Workdir, find_run

  compilation.enable_cache()
  place = find_run(args.workdir, args.run)
  pipe = VarPipeline.from_workdir(
    place,
    tokenizer_dir=args.tokenizer,
    precision=arguments.precision_of(args),
  )
  _check_label(args, pipe.num_classes)
  data = Workdir(place).run().data
  # All of the shorter side stays: an image of the right size is not cropped.
  data = dataclasses.replace(data, resize_ratio=1.0)
  image, mask = _read(args, data)
  pixels = image.astype(np.float32)[None] / 127.5 - 1
  labels, key = np.asarray([args.label]), jax.random.key(args.seed)
  settings = arguments.sampling_of(args)
  if args.smooth is None:
    settings['smooth'] = pipe.mixes
  if args.mode == 'superres':
    images, _ = pipe.super_resolve(
      pixels, labels, args.keep_scales, key, **settings
    )
    result = np.asarray(images[0])
  else:
    keep, generate = _regions(args, mask, pipe.grids[-1], data.resolution)
    images, _ = pipe.edit(pixels, labels, keep, key, **settings)
    result = np.asarray(images[0])
    if args.blend is not None:
      result = blend.composite(
        result, image.astype(np.float32) / 255, generate, args.blend
      )
  _write(pathlib.Path(args.out), result)
  print(f'{args.mode} by {pipe.label} written to {args.out}')
  return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
  parser = arguments.parser(
    'edit',
    'Generate parts of an image and keep the rest, without further training '
    '(VAR section 5.2). inpaint: generate inside of the box or the white of '
    'the mask; outpaint: keep the inside and generate the rest; class: '
    'inpaint with a class; superres: keep the coarse scales of the image and '
    'generate the finer ones.',
    _EXAMPLES,
  )
  arguments.add_run(parser)
  parser.add_argument(
    '--image',
    required=True,
    help='of any size: its shorter side is resized to the resolution of the '
    'run, then the centre is taken',
  )
  parser.add_argument('--out', required=True, help='PNG file to write')
  parser.add_argument('--mode', required=True, choices=_MODES, help='as above')
  region = parser.add_mutually_exclusive_group()
  region.add_argument(
    '--mask',
    default='',
    help='image of the size of --image; white is the inside, black the outside',
  )
  region.add_argument(
    '--box',
    default='',
    help='y0,x0,y1,x1 of the inside, each in [0, 1] of the cropped image',
  )
  parser.add_argument(
    '--label',
    type=int,
    default=_NO_CLASS,
    help='class index of what is generated; -1 is "no class"',
  )
  parser.add_argument(
    '--blend',
    type=int,
    metavar='PIXELS',
    help='put the kept pixels back, with a transition of so many pixels; '
    'unset shows what the decoder made of everything, as the official demo',
  )
  parser.add_argument(
    '--keep_scales',
    type=int,
    default=5,
    help='superres: how many of the coarse scales are those of the image',
  )
  arguments.add_sampling(
    parser,
    cfg=3.0,
    top_k=900,
    top_p=0.95,
    smooth='on if unset and the order has features to mix',
  )
  arguments.add_precision(parser)
  arguments.add_seed(parser)
  args = parser.parse_args(argv)
  _check(args)
  args.box = _box(args.box) if args.box else None
  return args


def _check(args: argparse.Namespace) -> None:
  """Refuses arguments that do not go together."""
  if not args.out.lower().endswith('.png'):
    raise errors.ConfigError(f'--out={args.out}: must end in .png')
  if args.mode == 'superres':
    for name in ('mask', 'box', 'blend'):
      if getattr(args, name) not in ('', None):
        raise errors.ConfigError(f'--{name}: has no meaning for superres')
  elif not (args.mask or args.box):
    raise errors.ConfigError(f'--mode={args.mode}: needs --mask or --box')
  if args.mode == 'class' and args.label == _NO_CLASS:
    raise errors.ConfigError('--mode=class: needs --label, a class')
  if args.blend is not None and args.blend < 0:
    raise errors.ConfigError(f'--blend={args.blend}: must be at least 0')


def _box(text: str) -> tuple[float, float, float, float]:
  try:
    y0, x0, y1, x1 = (float(part) for part in text.split(','))
  except ValueError as error:
    raise errors.ConfigError(
      f'--box={text}: must be four numbers y0,x0,y1,x1, such as 0.2,0.2,0.8,0.8'
    ) from error
  if not (0 <= y0 < y1 <= 1 and 0 <= x0 < x1 <= 1):
    raise errors.ConfigError(
      f'--box={text}: must be y0,x0,y1,x1 with 0 <= start < end <= 1'
    )
  return y0, x0, y1, x1


def _check_label(args: argparse.Namespace, classes: int) -> None:
  if not _NO_CLASS <= args.label < classes:
    raise errors.ConfigError(
      f'--label={args.label}: must be in 0..{classes - 1}, or -1, "no class"'
    )


def _read(args, data) -> tuple[np.ndarray, np.ndarray | None]:
  """The cropped image uint8 [H, W, 3], and the mask bool [H, W] if any."""
  from varjax.data import preprocess

  image = _decode(args.image)
  cropped = preprocess.center_crop(image, data)
  if not args.mask:
    return cropped, None
  mask = _decode(args.mask)
  if mask.shape != image.shape:
    raise errors.DataError(
      f'{args.mask}: is {_size(mask)} pixels, must be {_size(image)} like '
      f'{args.image}'
    )
  return cropped, preprocess.center_crop(mask, data).mean(axis=-1) >= 127.5


def _decode(path: str) -> np.ndarray:
  from varjax.data import images

  try:
    content = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise errors.DataError(f'{path}: {error.strerror}') from error
  return images.decode(content, path)


def _size(image: np.ndarray) -> str:
  return f'{image.shape[1]} x {image.shape[0]}'


def _regions(
  args: argparse.Namespace,
  mask: np.ndarray | None,
  grid: tuple[int, int],
  side: int,
) -> tuple[np.ndarray, np.ndarray]:
  """What is kept, on the finest grid, and which pixels are generated."""
  from varjax.sampling import edit

  inside = args.mode == 'outpaint'
  if mask is None:
    keep = edit.box_mask(grid, args.box, keep='inside' if inside else 'outside')
    cell = np.ones((side // grid[0], side // grid[1]))
    return keep, np.kron(keep, cell) < 0.5
  kept_pixels = mask if inside else ~mask
  return edit.pixel_mask(kept_pixels, grid), ~kept_pixels


def _write(out: pathlib.Path, image: np.ndarray) -> None:
  """Writes [H, W, 3] in [0, 1] as a PNG that is whole or absent."""
  from PIL import Image

  pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, format='PNG')
  out.parent.mkdir(parents=True, exist_ok=True)
  partial = out.with_name(out.name + '.partial')
  partial.write_bytes(buffer.getvalue())
  os.replace(partial, out)

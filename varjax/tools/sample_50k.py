"""`varjax sample-50k`: the image set that FID and its relatives score."""

from __future__ import annotations

import pathlib
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from varjax import errors
from varjax.tools import arguments

if TYPE_CHECKING:
  from varjax.pipeline import VarPipeline

_GROUP = 16


def main(argv: list[str]) -> int:
  """Samples the same number of images of every class; returns the exit code."""
  parser = arguments.parser(
    'sample-50k',
    'Sample the same number of images of every class into one .npz, as the '
    'evaluator of guided-diffusion reads it (uint8 arr_0 [n, H, W, 3]). '
    'Classes alternate: image i has class i modulo the number of classes. '
    'Run the same command again to go on after an interruption.',
  )
  parser.add_argument(
    '--workdir', required=True, help='of the trained run, or of a sweep'
  )
  parser.add_argument('--run', default='', help='name of a run of the sweep')
  parser.add_argument('--out', required=True, help='.npz file to write')
  parser.add_argument('--per_class', type=int, default=50, help='images')
  parser.add_argument(
    '--classes', type=int, help='the first so many; all of the run if unset'
  )
  parser.add_argument(
    '--cfg', type=float, help='guidance; run default if unset'
  )
  parser.add_argument('--top_k', type=int, help='0 keeps all codes')
  parser.add_argument('--top_p', type=float, help='0 keeps all codes')
  parser.add_argument('--smooth', action='store_true', help='smooth sampling')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--batch_size',
    type=int,
    help='images in flight over the devices of a process, rounded up to '
    'whole groups; two groups a device if unset; does not change the images',
  )
  parser.add_argument(
    '--group',
    type=int,
    default=_GROUP,
    help='images that a device computes at once: larger is faster and needs '
    'more memory; belongs to the settings, because another size may round '
    'differently',
  )
  parser.add_argument('--tokenizer', default='', help='if it has moved')
  args = parser.parse_args(argv)
  out = pathlib.Path(args.out)
  if out.suffix != '.npz':
    raise errors.ConfigError(f'--out={args.out}: must end in .npz')
  for name in ('per_class', 'classes', 'batch_size', 'group'):
    value = getattr(args, name)
    if value is not None and value < 1:
      raise errors.ConfigError(f'--{name}={value}: must be at least 1')
  if not 0 <= args.seed < 2**32:
    raise errors.ConfigError(f'--seed={args.seed}: must be in 0..2^32 - 1')

  from varjax import compilation
  from varjax.pipeline import VarPipeline
  from varjax.workdir import find_run

  compilation.enable_cache()
  pipe = VarPipeline.from_workdir(
    find_run(args.workdir, args.run), tokenizer_dir=args.tokenizer
  )
  classes = args.classes or pipe.num_classes
  if classes > pipe.num_classes:
    raise errors.ConfigError(
      f'--classes={classes}: the run has {pipe.num_classes} classes'
    )
  count = classes * args.per_class
  wrote = _sample(pipe, out, count, classes, args)
  done = 'written to' if wrote else 'are already in'
  print(f'{count} images of {pipe.label} {done} {out}')
  return 0


def _sample(
  pipe: VarPipeline, out: pathlib.Path, count: int, classes: int, args
) -> bool:
  from varjax.sampling import bulk

  chosen = pipe.settings(args.cfg, args.top_k, args.top_p, args.smooth)
  sampler = pipe.group_sampler(chosen, group=args.group, seed=args.seed)
  in_flight = 2
  if args.batch_size is not None:
    in_flight = -(-args.batch_size // sampler.rows)
  began = time.monotonic()

  def make(index: np.ndarray) -> np.ndarray:
    return sampler(index, index % classes, in_flight)

  def report(done: int, total: int) -> None:
    seconds = time.monotonic() - began
    print(f'{done} of {total} images, {seconds:.0f} s', file=sys.stderr)

  # Whole groups in every shard but the last: an image keeps its place.
  shard_images = -(-bulk.SHARD_IMAGES // args.group) * args.group
  settings = {
    'weights': pipe.label,
    'classes': classes,
    'seed': args.seed,
    'group': args.group,
    'cfg': chosen.cfg,
    'top_k': chosen.top_k,
    'top_p': chosen.top_p,
    'smooth': chosen.smooth,
  }
  return bulk.write(
    out, make, count, settings, shard_images=shard_images, report=report
  )

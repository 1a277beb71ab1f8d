"""`varjax sample-50k`: the image set that FID and its relatives score."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time

from varjax import distributed, errors
from varjax.tools import arguments

_GROUP = 16
_EXAMPLES = """
examples:
  varjax sample-50k --workdir runs/d16/model --cfg 1.5 --top_k 900 \\
    --top_p 0.96 --out d16.npz
  varjax sample-50k --workdir runs/my --run emoji_var-d7 --out emoji.npz
"""


def main(argv: list[str]) -> int:
  """Samples the same number of images of every class; returns the exit code.

  Raises:
    ConfigError: a bad argument, or more classes than the run knows.
  """
  args = _parser().parse_args(argv)
  out = pathlib.Path(args.out)
  if out.suffix != '.npz':
    raise errors.ConfigError(f'--out={args.out}: must end in .npz')
  for name in ('per_class', 'classes', 'batch_size', 'group', 'reject'):
    value = getattr(args, name)
    if value is not None and value < 1:
      raise errors.ConfigError(f'--{name}={value}: must be at least 1')
  if not 0 <= args.seed < 2**32:
    raise errors.ConfigError(f'--seed={args.seed}: must be in 0..2^32 - 1')

  distributed.start(args)
  import jax

  from varjax import compilation, features
  from varjax.pipeline import VarPipeline
  from varjax.scoring import samples, statistics
  from varjax.workdir import find_run

  compilation.enable_cache()
  pipe = VarPipeline.from_workdir(
    find_run(args.workdir, args.run),
    tokenizer_dir=args.tokenizer,
    precision=arguments.precision_of(args),
  )
  classes = args.classes or pipe.num_classes
  if classes > pipe.num_classes:
    raise errors.ConfigError(
      f'--classes={classes}: the run has {pipe.num_classes} classes'
    )
  count = classes * args.per_class
  classifier = None
  if args.reject > 1:
    network = features.load(args.features, args.feature_weights)
    classifier = statistics.Extractor(network)
  began = time.monotonic()

  def report(done: int, total: int) -> None:
    if jax.process_index():
      return
    seconds = time.monotonic() - began
    print(f'{done} of {total} images, {seconds:.0f} s', file=sys.stderr)

  request = _request(args, count, classes)
  wrote = samples.write(
    pipe, out, request, classifier=classifier, report=report
  )
  if jax.process_index():
    return 0
  done = 'written to' if wrote else 'are already in'
  print(f'{count} images of {pipe.label} {done} {out}')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = arguments.parser(
    'sample-50k',
    'Sample the same number of images of every class into one .npz, as the '
    'evaluator of guided-diffusion reads it (uint8 arr_0 [n, H, W, 3]). '
    'Classes alternate: image i has class i modulo the number of classes. '
    'Run the same command again to go on after an interruption.',
    _EXAMPLES,
  )
  arguments.add_run(parser)
  parser.add_argument('--out', required=True, help='.npz file to write')
  parser.add_argument(
    '--per_class', type=int, default=50, help='images of each class'
  )
  parser.add_argument(
    '--classes', type=int, help='the first so many; all of the run if unset'
  )
  arguments.add_sampling(parser)
  arguments.add_precision(parser)
  arguments.add_seed(parser)
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
  arguments.add_rejection(parser)
  arguments.add_features(parser)
  distributed.add_arguments(parser)
  return parser


def _request(args: argparse.Namespace, count: int, classes: int):
  from varjax.scoring import rejection, samples

  chosen = None
  if args.reject > 1:
    chosen = rejection.Rejection(args.reject, args.reject_by)
  return samples.Request(
    count=count,
    classes=classes,
    **arguments.sampling_of(args),
    seed=args.seed,
    group=args.group,
    batch_size=args.batch_size or 0,
    rejection=chosen,
  )

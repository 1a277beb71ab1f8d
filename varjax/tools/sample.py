"""`varjax sample`: images from a trained run, as one grid."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import pathlib

import numpy as np

from varjax import errors
from varjax.tools import arguments

_EXAMPLES = """
examples:
  varjax sample --workdir runs/my --run emoji_var-d7 --out samples.png
  varjax sample --workdir runs/d16/model --labels 207,88 --repeat 4 \\
    --cfg 4 --top_k 900 --top_p 0.96 --out grid.png
"""


def main(argv: list[str]) -> int:
  """Samples and writes a PNG; returns the exit code.

  Raises:
    ConfigError: a bad argument, or a label that the run does not know.
  """
  args = _parser().parse_args(argv)
  for name in ('repeat', 'batch_size', 'reject'):
    value = getattr(args, name)
    if value < 1:
      raise errors.ConfigError(f'--{name}={value}: must be at least 1')
  out = pathlib.Path(args.out)
  if out.suffix.lower() != '.png':
    raise errors.ConfigError(f'--out={args.out}: must end in .png')

  from varjax import compilation
  from varjax.evals import sheets
  from varjax.pipeline import VarPipeline
  from varjax.workdir import find_run

  compilation.enable_cache()
  pipe = VarPipeline.from_workdir(
    find_run(args.workdir, args.run),
    tokenizer_dir=args.tokenizer,
    precision=arguments.precision_of(args),
  )
  labels = np.repeat(_labels(args.labels, pipe.num_classes), args.repeat)

  def draw(labels: np.ndarray) -> np.ndarray:
    return pipe.sample_batches(
      labels,
      args.seed,
      min(args.batch_size, len(labels)),
      **arguments.sampling_of(args),
    )

  if args.reject > 1:
    images = _choose(args, draw, labels, pipe.num_classes)
  else:
    images = draw(labels)
  out.parent.mkdir(parents=True, exist_ok=True)
  columns = args.columns or max(args.repeat, round(len(images) ** 0.5))
  sheets.image_grid(images, out, columns)
  print(f'{len(images)} images of {pipe.label} written to {out}')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = arguments.parser(
    'sample',
    'Sample images with classifier-free guidance into one grid.',
    _EXAMPLES,
  )
  arguments.add_run(parser)
  parser.add_argument('--out', required=True, help='PNG file to write')
  parser.add_argument(
    '--labels',
    default='all',
    help='class indices such as 0,3,3; "all" for every class; -1 is "no class"',
  )
  parser.add_argument('--repeat', type=int, default=1, help='images per label')
  arguments.add_sampling(parser)
  arguments.add_precision(parser)
  arguments.add_seed(parser)
  parser.add_argument(
    '--batch_size', type=int, default=32, help='images computed at once'
  )
  parser.add_argument(
    '--columns',
    type=int,
    help='images in a row; a square, or --repeat if that is more, if unset',
  )
  arguments.add_rejection(parser)
  arguments.add_features(parser)
  return parser


def _choose(
  args: argparse.Namespace,
  draw: Callable[[np.ndarray], np.ndarray],
  labels: np.ndarray,
  classes: int,
) -> np.ndarray:
  """Of the candidates for each label, the image that is kept."""
  from varjax import features
  from varjax.scoring.rejection import Rejecter, Rejection
  from varjax.scoring.statistics import Extractor

  if args.reject_by == 'label' and np.any(labels == classes):
    raise errors.ConfigError(
      '--labels: no classifier knows "no class"; --reject_by confidence does '
      'not ask for one'
    )

  def draw_bytes(index: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    del index  # all images in one call: their places
    return np.round(255 * draw(wanted)).astype(np.uint8)

  rejecter = Rejecter(
    draw_bytes,
    Rejection(args.reject, args.reject_by),
    Extractor(features.load(args.features, args.feature_weights)),
    classes,
  )
  return rejecter(np.arange(len(labels)), labels) / np.float32(255)


def _labels(text: str, classes: int) -> np.ndarray:
  if text == 'all':
    return np.arange(classes)
  try:
    labels = [int(part) for part in text.split(',')]
  except ValueError as error:
    raise errors.ConfigError(
      f'--labels={text}: must be integers such as 0,3,3, or "all"'
    ) from error
  for label in labels:
    if not -1 <= label < classes:
      raise errors.ConfigError(
        f'--labels={text}: {label} is not in 0..{classes - 1} '
        '(or -1, "no class")'
      )
  return np.asarray([classes if label < 0 else label for label in labels])

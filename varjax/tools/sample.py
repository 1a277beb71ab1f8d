"""`varjax sample`: images from a trained run, as one grid."""

from __future__ import annotations

import pathlib

import numpy as np

from varjax import errors
from varjax.tools import arguments


def main(argv: list[str]) -> int:
  """Samples and writes a PNG; returns the exit code."""
  parser = arguments.parser(
    'sample',
    'Sample images with classifier-free guidance. The same seed gives the '
    'same images.',
  )
  parser.add_argument(
    '--workdir', required=True, help='of the trained run, or of a sweep'
  )
  parser.add_argument('--run', default='', help='name of a run of the sweep')
  parser.add_argument('--out', required=True, help='PNG file to write')
  parser.add_argument(
    '--labels',
    default='all',
    help='class indices such as 0,3,3; "all" for every class; -1 is "no class"',
  )
  parser.add_argument('--repeat', type=int, default=1, help='images per label')
  parser.add_argument(
    '--cfg', type=float, help='guidance; run default if unset'
  )
  parser.add_argument('--top_k', type=int, help='0 keeps all codes')
  parser.add_argument('--top_p', type=float, help='0 keeps all codes')
  parser.add_argument('--smooth', action='store_true', help='smooth sampling')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--columns', type=int, help='of the grid')
  parser.add_argument('--tokenizer', default='', help='if it has moved')
  args = parser.parse_args(argv)
  if args.repeat < 1 or args.batch_size < 1:
    raise errors.ConfigError('--repeat and --batch_size must be at least 1')
  out = pathlib.Path(args.out)
  if out.suffix.lower() != '.png':
    raise errors.ConfigError(f'--out={args.out}: must end in .png')

  from varjax import compilation
  from varjax.evals import sheets
  from varjax.pipeline import VarPipeline
  from varjax.workdir import find_run

  compilation.enable_cache()
  pipe = VarPipeline.from_workdir(
    find_run(args.workdir, args.run), tokenizer_dir=args.tokenizer
  )
  labels = np.repeat(_labels(args.labels, pipe.num_classes), args.repeat)
  images = pipe.sample_batches(
    labels,
    args.seed,
    min(args.batch_size, len(labels)),
    cfg=args.cfg,
    top_k=args.top_k,
    top_p=args.top_p,
    smooth=args.smooth,
  )
  out.parent.mkdir(parents=True, exist_ok=True)
  columns = args.columns or max(args.repeat, round(len(images) ** 0.5))
  sheets.image_grid(images, out, columns)
  print(f'{len(images)} images of {pipe.label} written to {out}')
  return 0


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

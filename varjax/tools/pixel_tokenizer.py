"""`varjax pixel-tokenizer`: pixels or a colour palette as a tokenizer.

Writes what `varjax train` leaves of a trained tokenizer, for the kinds that
nothing trains; `varjax encode` and stage 2 then read it like any other.
"""

from __future__ import annotations

import numpy as np

from varjax import errors
from varjax.tools import arguments

_KINDS = ('pixel', 'palette')


def main(argv: list[str]) -> int:
  """Writes the tokenizer; returns the exit code.

  Raises:
    ConfigError: a bad config, or a tokenizer that must be trained.
  """
  parser = arguments.parser(
    'pixel-tokenizer',
    'Write a tokenizer whose codes are pixels (kind pixel) or colours of a '
    'palette found by k-means over training images (kind palette).',
    arguments.OVERRIDE_HELP,
  )
  parser.add_argument('--config', required=True, help=arguments.CONFIG_HELP)
  parser.add_argument('--workdir', required=True, help='folder to write')
  parser.add_argument(
    '--images', type=int, default=512, help='training images for the palette'
  )
  parser.add_argument('--seed', type=int, default=0, help='of the k-means')
  argv, overrides = arguments.split_overrides(argv)
  args = parser.parse_args(argv)
  if args.images < 1:
    raise errors.ConfigError(f'--images={args.images}: must be at least 1')

  run = arguments.load_run(args.config, overrides)
  spec = run.tokenizer
  if spec.kind not in _KINDS:
    raise errors.ConfigError(
      f'tokenizer.kind={spec.kind!r}: must be one of {", ".join(_KINDS)}; '
      'train the others with `varjax train`'
    )
  from varjax.tokenizers import artifact
  from varjax.tokenizers.pixel import fit_palette

  params = {}
  if spec.kind == 'palette':
    images = _crops(run.data, args.images)
    params = {'palette': fit_palette(images, spec.vocab, args.seed)}
  identifier = artifact.save(args.workdir, spec, run.data, params)
  print(f'tokenizer {identifier} ({spec.kind}) written to {args.workdir}')
  return 0


def _crops(data, count: int) -> np.ndarray:
  """Centre crops uint8 [n, H, W, 3], spread over the training split."""
  from varjax.data import preprocess, sources

  source = sources.open_source(data, 'train')
  index = np.linspace(0, len(source) - 1, min(count, len(source)))
  return np.stack(
    [
      preprocess.center_crop(source[int(i)]['image'], data)
      for i in np.round(index)
    ]
  )

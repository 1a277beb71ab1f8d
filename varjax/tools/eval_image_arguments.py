"""Arguments of `varjax eval` that score images against a reference."""

from __future__ import annotations

import argparse
from typing import Any

from varjax import errors
from varjax.tools import arguments


def add(parser: argparse.ArgumentParser, subject: Any) -> None:
  """Adds every option that needs --reference.

  Args:
    parser: of the command; gets groups of its own.
    subject: the group of what is evaluated.
  """
  subject.add_argument(
    '--samples', default='', help='a folder of images, or an .npz with arr_0'
  )
  subject.add_argument('--vae', default='', help='official tokenizer weights')
  subject.add_argument('--var', default='', help='official transformer weights')
  _add_reference(parser)
  _add_sampler(parser)


def refuse_unused(args: argparse.Namespace) -> None:
  """Options that are about images need something to compare them with.

  Raises:
    ConfigError: such an option without --reference.
  """
  given = [
    name
    for name in ('images', 'sweep', 'plot', 'limit', 'force', 'discard')
    if getattr(args, name)
  ]
  if given:
    raise errors.ConfigError(f'--{given[0]}: scores of images need --reference')


def _add_reference(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group('what it is compared with')
  group.add_argument(
    '--reference',
    default='',
    help='folder, .npz of images, ADM reference .npz, NAME:SPLIT of a '
    'dataset, or "train" or "validation" of the run',
  )
  group.add_argument(
    '--resolution',
    type=int,
    default=0,
    help='side in pixels, of a dataset as reference',
  )
  group.add_argument('--data_dir', default='', help='where a dataset is')
  arguments.add_features(group)
  group.add_argument(
    '--lpips',
    default='',
    help='weights of LPIPS-VGG16, one file or VGG,LINEAR; judges the '
    'reconstructions of a tokenizer too',
  )
  group.add_argument(
    '--force',
    action='store_true',
    help='give a Frechet distance although there are too few images',
  )
  group.add_argument(
    '--limit',
    action='store_true',
    help='also extrapolate the Frechet distance to infinitely many images',
  )
  group.add_argument(
    '--splits', type=int, default=10, help='parts of the Inception score'
  )
  group.add_argument(
    '--eval_batch', type=int, default=64, help='images seen at once'
  )


def _add_sampler(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group('how a run or a checkpoint is sampled')
  group.add_argument(
    '--images',
    type=int,
    default=0,
    help='to sample; 0 is as many as the reference has, at most 50000',
  )
  group.add_argument(
    '--classes', type=int, default=0, help='the first so many; 0 is all'
  )
  arguments.add_sampling(group)
  arguments.add_seed(group)
  group.add_argument(
    '--group', type=int, default=16, help='images a device computes at once'
  )
  arguments.add_rejection(group)
  group.add_argument(
    '--sweep',
    nargs='+',
    default=[],
    metavar='KEY=VALUES',
    help='curves: any of cfg, top_k and top_p, as in cfg=1,1.5,2 top_k=0,900',
  )
  group.add_argument(
    '--plot', default='', help='.png, .svg or .pdf of the curves to write'
  )
  group.add_argument(
    '--samples_dir',
    default='',
    help='keeps samples and evaluations; the workdir if unset, needed for '
    'official weights',
  )
  group.add_argument(
    '--discard', action='store_true', help='remove samples that are scored'
  )

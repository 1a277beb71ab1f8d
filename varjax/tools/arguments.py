"""Command-line arguments that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from varjax import config, errors
from varjax import spec as specs

CONFIG_HELP = (
  'experiment file, with its argument behind a colon: '
  'experiments/emoji_var.py:size=d4'
)
OVERRIDE_HELP = (
  'Any key of the config can be set with --config.KEY=VALUE, such as '
  '--config.optim.lr=3e-4; --dry_run prints all keys.'
)


def parser(
  command: str, text: str, epilog: str = ''
) -> argparse.ArgumentParser:
  """An argument parser in the house style."""
  return argparse.ArgumentParser(
    prog=f'varjax {command}',
    description=text,
    epilog=epilog,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    allow_abbrev=False,
  )


def add_features(parser: argparse.ArgumentParser) -> None:
  """Which network metrics, or rejection, look through."""
  parser.add_argument(
    '--features',
    default='efflite0',
    help='feature network: efflite0 comes in a package; inception2015 (the '
    'one of FID) and others need --feature_weights',
  )
  parser.add_argument(
    '--feature_weights', default='', help='file of its weights'
  )


def add_rejection(parser: argparse.ArgumentParser) -> None:
  """Rejection sampling with the classifier of a feature network."""
  parser.add_argument(
    '--reject',
    type=int,
    default=1,
    help='candidates for each image, of which the classifier of --features '
    'keeps one; 1 keeps every image',
  )
  parser.add_argument(
    '--reject_by',
    default='label',
    choices=('label', 'confidence'),
    help='keep the most probable for its class, or the surest of any class',
  )


def add_sampling(group: argparse._ActionsContainer, **defaults: Any) -> None:
  """Guidance and truncation: the fields of `spec.SampleSpec`.

  Args:
    group: a parser, or a group of one.
    **defaults: of the command; what is not named is the run's.
  """
  unset = 'as the run if unset'
  for name, kind, text in (
    ('cfg', float, 'guidance at the last step; 0 is none'),
    ('top_k', int, '0 keeps all codes'),
    ('top_p', float, '0 keeps all codes'),
  ):
    default = defaults.get(name)
    note = '' if name in defaults else f'; {unset}'
    group.add_argument(
      f'--{name}', type=kind, default=default, help=text + note
    )
  group.add_argument(
    '--smooth',
    action=argparse.BooleanOptionalAction,
    help=f'smooth sampling; {defaults.get("smooth", unset)}',
  )

  group.add_argument(
    '--guided',
    type=_interval,
    metavar='FIRST,STOP',
    help='steps at which guidance is on, from FIRST to before STOP; those '
    f'after STOP cost half; {unset}',
  )


def add_precision(group: argparse._ActionsContainer) -> None:
  """Types that a sampler computes and stores in: `spec.PrecisionSpec`."""
  for name, choices, text in (
    ('compute', ('float32', 'bfloat16'), 'type of all arithmetic'),
    ('weights', ('int8',), 'store the transformer in less'),
    ('cache', ('int8',), 'store keys and values in less'),
  ):
    group.add_argument(
      f'--{name}',
      choices=choices,
      default='',
      help=f'{text}; as the run if unset',
    )


def precision_of(args: argparse.Namespace) -> specs.PrecisionSpec:
  """What `add_precision` asked for."""
  return specs.PrecisionSpec(args.compute, args.weights, args.cache)


def _interval(text: str) -> tuple[int, ...]:
  """'2,8' to (2, 8)."""
  return tuple(int(part) for part in text.split(','))


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
  """The settings that `add_sampling` asked for; None is not set."""
  names = (field.name for field in dataclasses.fields(specs.SampleSpec))
  return {name: getattr(args, name) for name in names}


def split_overrides(argv: list[str]) -> tuple[list[str], dict[str, str]]:
  """Takes `--config.KEY=VALUE` and `--config.KEY VALUE` out of `argv`.

  Raises:
    ConfigError: an override without a value.
  """
  rest: list[str] = []
  overrides: dict[str, str] = {}
  items = iter(argv)
  for item in items:
    if not item.startswith('--config.'):
      rest.append(item)
      continue
    key, equals, value = item.removeprefix('--config.').partition('=')
    if not equals:
      value = next(items, '')
      if not value or value.startswith('--'):
        raise errors.ConfigError(f'{item}: needs a value, as in {item}=VALUE')
    overrides[key] = value
  return rest, overrides


def load_run(path: str, overrides: dict[str, Any]) -> specs.RunSpec:
  """The validated spec of an experiment file with overrides applied."""
  loaded = config.load(path)
  try:
    loaded = config.override(loaded, overrides)
  except errors.ConfigError as error:
    raise errors.ConfigError(f'{path}: {error}') from error
  return config.to_spec(loaded, path)

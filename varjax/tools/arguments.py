"""Command-line arguments that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from typing import Any

from varjax import config, errors
from varjax import spec as specs

CONFIG_HELP = (
  'experiment file, with its argument behind a colon: '
  'experiments/emoji_var.py:size=d4'
)
OVERRIDE_HELP = (
  'Any key of the config can be set with --config.KEY=VALUE, such as '
  '--config.optim.lr=3e-4; `varjax train --dry_run` prints all keys.'
)


class _Formatter(
  argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
  """Examples as they are written, and the defaults that say something."""

  def _get_help_string(self, action: argparse.Action) -> str | None:
    silent = action.default is None or action.default is False
    if silent or action.default in ('', []):
      return action.help
    return super()._get_help_string(action)


def parser(
  command: str, text: str, epilog: str = ''
) -> argparse.ArgumentParser:
  """An argument parser in the house style.

  Args:
    command: behind `varjax`.
    text: what it does; line breaks stay, longer lines are wrapped.
    epilog: below the options, likewise.
  """
  return argparse.ArgumentParser(
    prog=f'varjax {command}',
    description=_lines(text),
    epilog=_lines(epilog),
    formatter_class=_Formatter,
    allow_abbrev=False,
  )


def _lines(text: str) -> str:
  """The text with its longer lines wrapped."""
  return '\n'.join(
    textwrap.fill(line, 79) if len(line) > 79 else line
    for line in text.split('\n')
  )


def add_run(group: argparse._ActionsContainer, required: bool = True) -> None:
  """A trained run: --workdir, --run and --tokenizer.

  Args:
    group: a parser, or a group of one.
    required: whether there is nothing else to work on.
  """
  group.add_argument(
    '--workdir',
    required=required,
    default='',
    help='folder of a trained run, or of a sweep (with --run)',
  )
  group.add_argument(
    '--run', default='', help='of a sweep: name of the run, as in its table'
  )
  group.add_argument(
    '--tokenizer',
    default='',
    help='folder of the trained tokenizer, if it has moved since training',
  )


def add_seed(group: argparse._ActionsContainer) -> None:
  """The seed of what is sampled."""
  group.add_argument(
    '--seed', type=int, default=0, help='the same seed, the same images'
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
    '--feature_weights',
    default='',
    help='file of its weights (.pth, .pb, .safetensors or .npz)',
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
    ('cfg', float, 'classifier-free guidance at the last step; 0 is none'),
    ('top_k', int, 'draw from the K most probable codes; 0 keeps all'),
    ('top_p', float, 'draw from codes of this total probability; 0 keeps all'),
  ):
    default = defaults.get(name)
    note = '' if name in defaults else f'; {unset}'
    group.add_argument(
      f'--{name}', type=kind, default=default, help=text + note
    )
  group.add_argument(
    '--smooth',
    action=argparse.BooleanOptionalAction,
    help='mix codes instead of drawing one: nicer to look at, not for scores; '
    f'{defaults.get("smooth", unset)}',
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
  """The validated spec of an experiment file with overrides applied.

  Args:
    path: PATH, or PATH:ARG with the argument of its `get_config`.
    overrides: {key of the config: value as text}.

  Raises:
    ConfigError: an unreadable file, an unknown key or a bad value.
  """
  loaded = config.load(path)
  try:
    loaded = config.override(loaded, overrides)
  except errors.ConfigError as error:
    raise errors.ConfigError(f'{path}: {error}') from error
  return config.to_spec(loaded, path)

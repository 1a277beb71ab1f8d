"""Sweeps: pure lists of trials, and the algebra that makes them.

A trial is a flat dict `{dotted.path: value}`; a sweep is a list of trials.
A sweep file defines `get_hyper(hyper)`, where `hyper` is this module:

    def get_hyper(hyper):
      return hyper.product(
        hyper.fixed('optim.lr', 3e-4),
        hyper.sweep('config', [f'experiments/x.py:size=d{d}' for d in (2, 4)]),
      )

Every trial names its experiment under 'config', and may say under 'priority'
(a whole number, 0 by default) that it starts before trials with a lower one;
all other keys are keys of `spec.RunSpec`. Nothing here starts a run: see
`launch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import fnmatch
import itertools
import json
import re
import sys
from typing import Any

from varjax import config, errors

Trial = dict[str, Any]
Sweep = list[Trial]

_KEY = re.compile(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*)*')
_DURATION_FIELDS = ('images', 'steps', 'epochs', 'frac')


def sweep(key: str, values: Iterable[Any]) -> Sweep:
  """One trial per value of `key`.

  Raises:
    ConfigError: no values, a value twice, or a key that is not dotted names.
  """
  trials = [{_checked(key): _plain(value)} for value in values]
  if not trials:
    raise errors.ConfigError(f'sweep over {key}: no values; give at least one')
  return _distinct(trials)


def fixed(key: str, value: Any) -> Sweep:
  """One trial: the unit for setting a key everywhere, by `product`."""
  return sweep(key, [value])


def product(*sweeps: Sweep) -> Sweep:
  """Every combination, the last sweep varying fastest.

  Raises:
    ConfigError: two sweeps set the same key.
  """
  return _distinct([_union(parts) for parts in itertools.product(*sweeps)])


def zipit(*sweeps: Sweep) -> Sweep:
  """The first trials of all sweeps together, then the second, ...

  Raises:
    ConfigError: sweeps of different length, or that set the same key.
  """
  lengths = [len(s) for s in sweeps]
  if len(set(lengths)) > 1:
    raise errors.ConfigError(
      f'zipit: the sweeps must be equally long, not {lengths}'
    )
  return _distinct([_union(parts) for parts in zip(*sweeps, strict=True)])


def chain(*sweeps: Sweep) -> Sweep:
  """One sweep after the other.

  Raises:
    ConfigError: the same trial twice.
  """
  return _distinct([dict(trial) for s in sweeps for trial in s])


def derive(
  trials: Sweep,
  key: str | Mapping[str, Callable[[Trial], Any]],
  fn: Callable[[Trial], Any] | None = None,
) -> Sweep:
  """Adds keys computed from the others.

  Args:
    trials: the sweep to extend.
    key: the new key, or a mapping of new keys to functions; a later
      function sees the keys that earlier ones made.
    fn: from a trial to the value of `key`, when `key` is text.

  Raises:
    ConfigError: a key that the trial already has.
  """
  if isinstance(key, str):
    if fn is None:
      raise errors.ConfigError(f'derive {key}: needs a function')
    functions = {key: fn}
  else:
    functions = dict(key)
  derived = []
  for trial in trials:
    trial = dict(trial)
    for name, function in functions.items():
      value = _plain(function(dict(trial)))
      trial = _union([trial, {_checked(name): value}])
    derived.append(trial)
  return _distinct(derived)


def load(path: str) -> Sweep:
  """Executes `get_hyper` of a sweep file and checks what it returns.

  Returns:
    Trials that all have 'config' and a 'name'.

  Raises:
    ConfigError: the file is missing or fails, or returns anything but a
      list of distinct trials that name their experiment.
  """
  module = config.load_module(path, 'get_hyper')
  try:
    trials = module.get_hyper(sys.modules[__name__])
  except errors.ConfigError as error:
    raise errors.ConfigError(f'{path}: {error}') from error
  except Exception as error:
    raise errors.ConfigError(
      f'{path}: get_hyper failed: {type(error).__name__}: {error}'
    ) from error
  try:
    return named(_checked_trials(trials))
  except errors.ConfigError as error:
    raise errors.ConfigError(f'{path}: {error}') from error


def with_overrides(trials: Sweep, values: Mapping[str, Any]) -> Sweep:
  """The trials with `values` set in each, whatever they had before.

  Setting one field of a duration removes the trial's other fields of it.
  """
  replaced = []
  for trial in trials:
    kept = {
      key: value
      for key, value in trial.items()
      if not any(_same_duration(key, other) for other in values)
    }
    replaced.append({**kept, **{_checked(k): v for k, v in values.items()}})
  return _distinct(replaced)


def only(trials: Sweep, patterns: Sequence[str]) -> Sweep:
  """The trials that match every `KEY=PATTERN` (shell wildcards).

  Raises:
    ConfigError: a pattern without '=', a key no trial has, or no match.
  """
  for pattern in patterns:
    key, equals, _ = pattern.partition('=')
    if not equals or not any(key in trial for trial in trials):
      known = sorted({key for trial in trials for key in trial})
      raise errors.ConfigError(
        f'--only {pattern}: must be KEY=PATTERN, with a key that the trials '
        f'set: {", ".join(known)}'
      )
    trials = [t for t in trials if key in t and _matches(t, pattern)]
    if not trials:
      raise errors.ConfigError(f'--only {pattern}: matches no trial')
  return trials


def named(trials: Sweep) -> Sweep:
  """Gives a name to every trial that has none, from what varies."""
  varying = [
    key
    for key in dict.fromkeys(k for trial in trials for k in trial)
    if key not in ('config', 'name', 'role', 'priority')
    and len({_canonical(t.get(key)) for t in trials}) > 1
  ]
  return [{'name': _name_of(t, varying), **t} for t in trials]


def to_text(value: Any) -> str:
  """A value as command-line text that `coerce` reads back as the same."""
  return value if isinstance(value, str) else repr(value)


def _name_of(trial: Trial, varying: list[str]) -> str:
  path, _, arg = trial['config'].partition(':')
  stem = path.rpartition('/')[2].removesuffix('.py')
  parts = [stem, *(part.partition('=')[2] for part in arg.split(','))]
  parts += [
    f'{key.rpartition(".")[2]}{to_text(trial[key])}'
    for key in varying
    if key in trial
  ]
  text = '-'.join(filter(None, parts))
  return re.sub(r'[^A-Za-z0-9._-]+', '_', text)[:80]


def _matches(trial: Trial, pattern: str) -> bool:
  key, _, wanted = pattern.partition('=')
  return fnmatch.fnmatchcase(to_text(trial[key]), wanted)


def _same_duration(key: str, other: str) -> bool:
  parent, _, leaf = key.rpartition('.')
  other_parent, _, other_leaf = other.rpartition('.')
  both = leaf in _DURATION_FIELDS and other_leaf in _DURATION_FIELDS
  return bool(parent) and both and parent == other_parent


def _checked_trials(trials: Any) -> Sweep:
  if not isinstance(trials, list) or not trials:
    raise errors.ConfigError('get_hyper must return a list of trials')
  for number, trial in enumerate(trials):
    if not isinstance(trial, dict):
      raise errors.ConfigError(f'trial {number} must be a dict of dotted keys')
    for key in trial:
      _checked(key)
    path = trial.get('config')
    if not isinstance(path, str) or not path:
      raise errors.ConfigError(
        f"trial {number}: needs 'config', the path of its experiment file"
      )
    name = trial.get('name', 'x')
    if not isinstance(name, str) or not re.fullmatch(r'[\w.=,-]+', name):
      raise errors.ConfigError(
        f'trial {number}: name={name!r}: must be letters, digits and any of '
        '. _ = , - only, since it names a folder'
      )
  return _distinct([{k: _plain(v) for k, v in t.items()} for t in trials])


def _checked(key: Any) -> str:
  if not isinstance(key, str) or not _KEY.fullmatch(key):
    raise errors.ConfigError(
      f'{key!r}: a key must be names with dots between, such as optim.lr'
    )
  return key


def _union(parts: Sequence[Trial]) -> Trial:
  union: Trial = {}
  for part in parts:
    for key, value in part.items():
      if key in union:
        raise errors.ConfigError(
          f'{key} is set twice, to {union[key]!r} and {value!r}; set it in '
          'one place'
        )
      union[key] = value
  return union


def _distinct(trials: Sweep) -> Sweep:
  seen: dict[str, int] = {}
  for number, trial in enumerate(trials):
    canonical = _canonical(trial)
    if canonical in seen:
      raise errors.ConfigError(
        f'trials {seen[canonical]} and {number} are the same: {trial}'
      )
    seen[canonical] = number
  return trials


def _canonical(value: Any) -> str:
  return json.dumps(value, sort_keys=True, default=repr)


def _plain(value: Any) -> Any:
  """NumPy scalars become Python's, which configs accept."""
  return value.item() if hasattr(value, 'item') else value

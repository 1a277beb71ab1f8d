"""From an experiment file to a frozen, validated `RunSpec`.

An experiment is a Python file with `get_config(arg)` that returns an
ml_collections ConfigDict made from `default_config()`. The ConfigDict stops
here: it is converted once, every key and type is checked, and what remains
is a `spec.RunSpec`.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
import dataclasses
import importlib.util
import json
import pathlib
import types as py_types
from typing import Any

import ml_collections

from varjax import errors
from varjax import spec as specs
from varjax.coerce import build, coerce, hints_of
from varjax.validation import validate


def default_config() -> ml_collections.ConfigDict:
  """Returns a ConfigDict with every key of `RunSpec` at its default."""
  return as_config(specs.RunSpec())


def parse_arg(arg: str | None, **defaults: Any) -> Any:
  """Parses `key=value,key=value` behind the colon of an experiment path.

  Args:
    arg: the text behind the colon, or None.
    **defaults: allowed keys with their default; a value takes the type of
      its default.

  Returns:
    A namespace with one attribute per key.

  Raises:
    ConfigError: on a key that is not in `defaults`, or a bad value.
  """
  values = dict(defaults)
  for part in filter(None, (arg or '').split(',')):
    key, equals, text = part.partition('=')
    if key not in defaults or not equals:
      allowed = ', '.join(f'{k}={v}' for k, v in defaults.items())
      raise errors.ConfigError(
        f'config argument {part!r} is not understood; allowed: {allowed}'
      )
    values[key] = coerce(text, type(defaults[key]), f'argument {key}')
  return py_types.SimpleNamespace(**values)


def duration(**length: float) -> dict[str, float]:
  """A duration as a config holds it, such as `duration(epochs=200)`."""
  zero = dataclasses.asdict(specs.Duration())
  return {**zero, **length}


def parse_size(text: str, allowed: Iterable[int]) -> int:
  """The depth K of a size name `dK`.

  Raises:
    ConfigError: not of that form, or not one of `allowed`.
  """
  depths = list(allowed)
  if text[:1] != 'd' or not text[1:].isdigit() or int(text[1:]) not in depths:
    names = ', '.join(f'd{depth}' for depth in depths)
    raise errors.ConfigError(f'size={text!r}: must be one of {names}')
  return int(text[1:])


def load(path_and_arg: str) -> ml_collections.ConfigDict:
  """Executes `PATH[:ARG]` and returns what its `get_config` returns.

  Raises:
    ConfigError: the file is missing, has no get_config, or fails.
  """
  path, _, arg = path_and_arg.partition(':')
  module = load_module(path, 'get_config')
  try:
    config = module.get_config(arg or None)
  except errors.ConfigError as error:
    raise errors.ConfigError(f'{path}: {error}') from error
  except Exception as error:
    message = str(error).strip().splitlines()[0] if str(error) else ''
    raise errors.ConfigError(
      f'{path}: get_config failed: {type(error).__name__}: {message}'
    ) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.ConfigError(
      f'{path}: get_config must return an ml_collections.ConfigDict, '
      f'not {type(config).__name__}'
    )
  return config


def load_module(path: str, function: str) -> py_types.ModuleType:
  """Imports a Python file by path.

  Args:
    path: of the file; its code is run.
    function: that it must define.

  Raises:
    ConfigError: no such file, it cannot be imported, or lacks the function.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise errors.ConfigError(f'{path}: no such file')
  module_spec = importlib.util.spec_from_file_location(file.stem, file)
  if module_spec is None or module_spec.loader is None:
    raise errors.ConfigError(f'{path}: not a Python file')
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
  except Exception as error:
    raise errors.ConfigError(
      f'{path}: cannot be imported: {type(error).__name__}: {error}'
    ) from error
  if not hasattr(module, function):
    raise errors.ConfigError(f'{path}: defines no {function}()')
  return module


def override(
  config: ml_collections.ConfigDict, values: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """Returns a copy of `config` with dotted keys replaced.

  Text values are read as the type of the key. Setting one field of a
  duration clears its other fields, unless they are set as well.

  Raises:
    ConfigError: on an unknown key or a value of the wrong type.
  """
  tree = config.to_dict()
  touched = collections.defaultdict(set)
  for dotted in values:
    parent, _, leaf = dotted.rpartition('.')
    touched[parent].add(leaf)
  for dotted, value in values.items():
    parent, _, leaf = dotted.rpartition('.')
    hint = _hint_of(dotted)
    node = _descend(tree, parent.split('.') if parent else [], dotted)
    if leaf not in node:
      raise errors.ConfigError(
        f'{dotted}: unknown key; allowed here: {", ".join(sorted(node))}'
      )
    if _is_duration(parent):
      for other in node:
        if other not in touched[parent]:
          node[other] = type(node[other])(0)
    node[leaf] = coerce(value, hint, dotted)
  return ml_collections.ConfigDict(tree)


def to_spec(
  config: ml_collections.ConfigDict | Mapping[str, Any], source: str = 'config'
) -> specs.RunSpec:
  """Converts and validates; the only way from a ConfigDict to a RunSpec.

  Args:
    config: a ConfigDict or plain nested mapping.
    source: the file to name in errors.

  Raises:
    ConfigError: unknown key, wrong type, or impossible combination.
  """
  tree = config.to_dict() if hasattr(config, 'to_dict') else dict(config)
  try:
    run = build(specs.RunSpec, tree)
    validate(run)
  except errors.ConfigError as error:
    raise errors.ConfigError(f'{source}: {error}') from error
  return run


def to_json(run: specs.RunSpec) -> str:
  """The whole spec as canonical JSON, for records and workdirs."""
  return json.dumps(dataclasses.asdict(run), sort_keys=True)


def from_json(text: str, source: str = 'config_json') -> specs.RunSpec:
  """Inverse of `to_json`, with full validation.

  Raises:
    ConfigError: no JSON, an unknown key, a wrong type or a bad value; names
      `source`.
  """
  try:
    tree = json.loads(text)
  except json.JSONDecodeError as error:
    raise errors.ConfigError(f'{source}: not JSON ({error})') from error
  return to_spec(tree, source)


def as_config(value: Any) -> Any:
  """The ConfigDict of a spec (a value that is none is returned as is)."""
  if dataclasses.is_dataclass(value):
    return ml_collections.ConfigDict(
      {
        f.name: as_config(getattr(value, f.name))
        for f in dataclasses.fields(value)
      }
    )
  return value


def _hint_of(dotted: str) -> Any:
  cls: Any = specs.RunSpec
  for key in dotted.split('.'):
    hints = hints_of(cls) if dataclasses.is_dataclass(cls) else {}
    if key not in hints:
      raise errors.ConfigError(
        f'{dotted}: unknown key {key!r}; allowed here: '
        f'{", ".join(sorted(hints)) or "nothing, it is a value"}'
      )
    cls = hints[key]
  if dataclasses.is_dataclass(cls):
    raise errors.ConfigError(f'{dotted}: is a section; set one of its keys')
  return cls


def _is_duration(dotted: str) -> bool:
  cls: Any = specs.RunSpec
  for key in filter(None, dotted.split('.')):
    cls = hints_of(cls)[key]
  return cls is specs.Duration


def _descend(tree: dict[str, Any], keys: list[str], dotted: str) -> Any:
  for key in keys:
    if not isinstance(tree.get(key), dict):
      raise errors.ConfigError(f'{dotted}: unknown section {key!r}')
    tree = tree[key]
  return tree

"""Values of a declared type, from text or from plain Python.

Used for experiment files, command-line overrides and sweep trials alike, so
that `--config.optim.lr=3e-4` and `{'optim.lr': 3e-4}` mean the same.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
import dataclasses
import functools
import types as py_types
import typing
from typing import Any

from varjax import errors


def build(cls: type, tree: Mapping[str, Any], prefix: str = '') -> Any:
  """A (nested) dataclass from a mapping, every key and type checked.

  Raises:
    ConfigError: naming the dotted key and what is allowed there.
  """
  hints = hints_of(cls)
  unknown = sorted(set(tree) - set(hints))
  if unknown:
    raise errors.ConfigError(
      f'{prefix}{unknown[0]}: unknown key; allowed here: '
      f'{", ".join(sorted(hints))}'
    )
  values = {}
  for key, value in tree.items():
    hint = hints[key]
    if dataclasses.is_dataclass(hint):
      if not isinstance(value, Mapping):
        raise errors.ConfigError(f'{prefix}{key}: must be a mapping')
      values[key] = build(typing.cast(type, hint), value, f'{prefix}{key}.')
    else:
      values[key] = coerce(value, hint, f'{prefix}{key}')
  return cls(**values)


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
  """Resolved field types of a dataclass."""
  return typing.get_type_hints(cls)


def coerce(value: Any, hint: Any, key: str) -> Any:
  """Reads `value` as type `hint`, without losing information.

  Raises:
    ConfigError: naming `key` and the type that it must have.
  """
  original = value
  if isinstance(value, str) and hint is not str:
    value = _literal(value)
  result = _match(value, hint)
  if result is _MISMATCH:
    raise errors.ConfigError(
      f'{key}={original!r}: must be {_name_of(hint)}, '
      f'not {type(value).__name__}'
    )
  return result


_MISMATCH = object()


def _match(value: Any, hint: Any) -> Any:
  origin = typing.get_origin(hint)
  if origin in (py_types.UnionType, typing.Union):
    for option in typing.get_args(hint):
      result = _match(value, option)
      if result is not _MISMATCH:
        return result
    return _MISMATCH
  if origin is tuple:
    return _match_tuple(value, typing.get_args(hint))
  if hint is bool:
    return value if isinstance(value, bool) else _MISMATCH
  if hint is int:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return value if is_int else _MISMATCH
  if hint is float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else _MISMATCH
  if hint is str:
    return value if isinstance(value, str) else _MISMATCH
  return _MISMATCH


def _match_tuple(value: Any, args: tuple[Any, ...]) -> Any:
  if not isinstance(value, list | tuple):
    return _MISMATCH
  if len(args) == 2 and args[1] is Ellipsis:
    args = (args[0],) * len(value)
  if len(args) != len(value):
    return _MISMATCH
  items = tuple(_match(v, a) for v, a in zip(value, args, strict=True))
  return _MISMATCH if any(i is _MISMATCH for i in items) else items


def _literal(text: str) -> Any:
  lowered = {'true': True, 'false': False, 'none': None}
  if text.lower() in lowered:
    return lowered[text.lower()]
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _name_of(hint: Any) -> str:
  names = {int: 'an integer', float: 'a number', bool: 'true or false'}
  return names.get(hint, str(hint).replace('varjax.spec.', ''))

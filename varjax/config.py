"""From an experiment file to a frozen, validated `RunSpec`, and its run id.

An experiment is a Python file with `get_config(arg)` that returns an
ml_collections ConfigDict made from `default_config()`. The ConfigDict stops
here: it is converted once, every key and type is checked, and what remains
is a `spec.RunSpec`.
"""

from __future__ import annotations

import ast
import collections
from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import importlib.util
import json
import pathlib
import types as py_types
import typing
from typing import Any

import ml_collections

from varjax import errors
from varjax import spec as specs

# Sources that can change what a run computes. Fitting, launching and the
# command line are left out: editing a plot must not orphan finished runs.
_CODE_OF_A_RUN = (
  'data', 'tokenizers', 'orders', 'models', 'tasks', 'evals',
  'types.py', 'schedule.py', 'optim.py', 'train.py', 'evaluate.py',
  'rng.py',
)  # fmt: skip


def default_config() -> ml_collections.ConfigDict:
  """Returns a ConfigDict with every key of `RunSpec` at its default."""
  return _as_config(specs.RunSpec())


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
    values[key] = _coerce(text, type(defaults[key]), f'argument {key}')
  return py_types.SimpleNamespace(**values)


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
  """Imports a Python file by path; it must define `function`."""
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
    node[leaf] = _coerce(value, hint, dotted)
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
    run = _build(specs.RunSpec, tree, '')
    validate(run)
  except errors.ConfigError as error:
    raise errors.ConfigError(f'{source}: {error}') from error
  return run


def validate(run: specs.RunSpec) -> None:
  """Refuses combinations that cannot run, before anything is compiled.

  Raises:
    ConfigError: naming the key and what is allowed.
  """
  tok, model, data = run.tokenizer, run.model, run.data
  _one_of('task', run.task, ('reconstruct', 'generate'))
  _one_of('role', run.role, ('fit', 'holdout', 'debug'))
  _one_of('input', run.input, ('codes', 'images'))
  _one_of(
    'model.compute_dtype', model.compute_dtype, ('float32', 'bfloat16')
  )
  _one_of('model.remat', model.remat, ('none', 'dots', 'full'))
  _one_of(
    'optim.moments_dtype', run.optim.moments_dtype, ('float32', 'bfloat16')
  )
  for key, value in (
    ('batch_size', run.batch_size),
    ('data.resolution', data.resolution),
    ('model.depth', model.depth),
    ('model.width', model.width),
    ('model.heads', model.heads),
    ('tokenizer.vocab', tok.vocab),
    ('tokenizer.code_dim', tok.code_dim),
    ('optim.accumulate', run.optim.accumulate),
    ('keep_checkpoints', run.keep_checkpoints),
  ):
    if value < 1:
      raise errors.ConfigError(f'{key}={value}: must be at least 1')
  if model.width % model.heads:
    raise errors.ConfigError(
      f'model.heads={model.heads}: must divide model.width={model.width}'
    )
  if run.batch_size % run.optim.accumulate:
    raise errors.ConfigError(
      f'optim.accumulate={run.optim.accumulate}: must divide '
      f'batch_size={run.batch_size}'
    )
  for key in ('total', 'evaluate', 'checkpoint', 'log'):
    _check_duration(key, getattr(run, key), required=key == 'total')
  _check_duration('optim.warmup', run.optim.warmup, required=False)
  if run.total.frac:
    raise errors.ConfigError(
      'total.frac: the run cannot be a share of itself; set total.images, '
      'total.steps or total.epochs'
    )
  _check_scales(tok, data)


def _check_scales(tok: specs.TokenizerSpec, data: specs.DataSpec) -> None:
  grids = tok.grids
  if not grids:
    raise errors.ConfigError('tokenizer.scales: needs at least one scale')
  for before, after in zip(grids, grids[1:], strict=False):
    if after[0] < before[0] or after[1] < before[1] or after == before:
      raise errors.ConfigError(
        f'tokenizer.scales={tok.scales}: each scale must be larger than the '
        f'one before; {after} follows {before}'
      )
  if min(grids[0]) < 1:
    raise errors.ConfigError(
      f'tokenizer.scales={tok.scales}: scales must be at least 1'
    )
  if data.resolution % tok.downsample:
    raise errors.ConfigError(
      f'data.resolution={data.resolution}: must be a multiple of '
      f'{tok.downsample}, the down-sampling of tokenizer.ch_mult='
      f'{tok.ch_mult}'
    )
  side = data.resolution // tok.downsample
  if grids[-1] != (side, side):
    raise errors.ConfigError(
      f'tokenizer.scales={tok.scales}: the last scale must be {side}, that '
      f'is data.resolution={data.resolution} / {tok.downsample}'
    )
  for level in tok.ch_mult:
    if tok.ch * level % tok.norm_groups:
      raise errors.ConfigError(
        f'tokenizer.norm_groups={tok.norm_groups}: must divide '
        f'tokenizer.ch * ch_mult = {tok.ch * level}'
      )


def _check_duration(key: str, value: specs.Duration, required: bool) -> None:
  fields = dataclasses.asdict(value)
  present = [f'{key}.{k}={v}' for k, v in fields.items() if v]
  if len(present) > 1 or (required and not present):
    raise errors.ConfigError(
      f'{key}: set exactly one of images, steps, epochs, frac, not '
      f'{", ".join(present) or "none"}'
    )
  if any(v < 0 for v in fields.values()) or value.frac > 1:
    raise errors.ConfigError(f'{present[0]}: must be positive, frac <= 1')


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise errors.ConfigError(
      f'{key}={value!r}: must be one of {", ".join(allowed)}'
    )


# --- identity ---------------------------------------------------------------


def identity(run: specs.RunSpec) -> dict[str, Any]:
  """The part of a spec that decides what the run computes."""
  return _identity_of(run)


def run_id(
  run: specs.RunSpec, inputs: Mapping[str, str] | None = None
) -> str:
  """Hash of identity, of the code, and of what the run reads.

  Args:
    run: the spec.
    inputs: content hashes of inputs, such as {'tokenizer': ..., 'codes': ...}.

  Returns:
    12 hexadecimal digits.
  """
  content = {
    'spec': identity(run),
    'inputs': dict(inputs or {}),
    'code': code_version(),
  }
  return digest(content)[:12]


def digest(content: Any) -> str:
  """SHA-256 of canonical JSON."""
  text = json.dumps(content, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def code_version() -> str:
  """Hash of the package sources that can change what a run computes."""
  root = pathlib.Path(__file__).parent
  files = []
  for name in _CODE_OF_A_RUN:
    path = root / name
    files += sorted(path.rglob('*.py')) if path.is_dir() else [path]
  sha = hashlib.sha256()
  for file in files:
    if file.is_file():
      sha.update(str(file.relative_to(root)).encode())
      sha.update(file.read_bytes())
  return sha.hexdigest()[:12]


def to_json(run: specs.RunSpec) -> str:
  """The whole spec as canonical JSON, for records and workdirs."""
  return json.dumps(dataclasses.asdict(run), sort_keys=True)


def from_json(text: str, source: str = 'config_json') -> specs.RunSpec:
  """Inverse of `to_json`, with full validation."""
  try:
    tree = json.loads(text)
  except json.JSONDecodeError as error:
    raise errors.ConfigError(f'{source}: not JSON ({error})') from error
  return to_spec(tree, source)


def _identity_of(value: Any) -> Any:
  if dataclasses.is_dataclass(value):
    return {
      f.name: _identity_of(getattr(value, f.name))
      for f in dataclasses.fields(value)
      if f.metadata.get('identity', True)
    }
  if isinstance(value, tuple):
    return [_identity_of(v) for v in value]
  return value


# --- conversion -------------------------------------------------------------


def _as_config(value: Any) -> Any:
  if dataclasses.is_dataclass(value):
    return ml_collections.ConfigDict(
      {
        f.name: _as_config(getattr(value, f.name))
        for f in dataclasses.fields(value)
      }
    )
  return value


def _build(cls: type, tree: Mapping[str, Any], prefix: str) -> Any:
  hints = _hints(cls)
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
      values[key] = _build(typing.cast(type, hint), value, f'{prefix}{key}.')
    else:
      values[key] = _coerce(value, hint, f'{prefix}{key}')
  return cls(**values)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
  return typing.get_type_hints(cls)


def _hint_of(dotted: str) -> Any:
  cls: Any = specs.RunSpec
  for key in dotted.split('.'):
    hints = _hints(cls) if dataclasses.is_dataclass(cls) else {}
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
    cls = _hints(cls)[key]
  return cls is specs.Duration


def _descend(tree: dict[str, Any], keys: list[str], dotted: str) -> Any:
  for key in keys:
    if not isinstance(tree.get(key), dict):
      raise errors.ConfigError(f'{dotted}: unknown section {key!r}')
    tree = tree[key]
  return tree


def _coerce(value: Any, hint: Any, key: str) -> Any:
  """Reads `value` as type `hint`, without losing information."""
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

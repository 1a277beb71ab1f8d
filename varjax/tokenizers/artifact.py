"""A trained tokenizer as files: what stage 2, encoding and sampling read.

`tokenizer.safetensors` holds the weights (safetensors cannot execute code)
and `tokenizer.json` says what they are. The id is a hash of both, so a
changed byte is a different tokenizer and is refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

from flax import traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from varjax import errors
from varjax.coerce import build
from varjax.spec import DataSpec, RunSpec, TokenizerSpec
from varjax.tokenizers import make_tokenizer
from varjax.tokenizers.base import Tokenizer
from varjax.tokenizers.store import tokenizer_id
from varjax.types import PyTree

WEIGHTS = 'tokenizer.safetensors'
DESCRIPTION = 'tokenizer.json'


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
  """A frozen tokenizer: the code, the weights, and what they came from."""

  tokenizer: Tokenizer
  params: PyTree  # numpy arrays
  id: str
  spec: TokenizerSpec
  data: DataSpec


def save(
  directory: str | os.PathLike[str],
  spec: TokenizerSpec,
  data: DataSpec,
  params: PyTree,
) -> str:
  """Writes weights, then the description, each atomically.

  Args:
    directory: made if it is not there.
    spec: of the tokenizer.
    data: what it was trained on.
    params: its weights, stored as float32.

  Returns:
    The id of the tokenizer: a hash of its spec and weights.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  flat = {
    key: np.ascontiguousarray(np.asarray(value, np.float32))
    for key, value in traverse_util.flatten_dict(params, sep='/').items()
  }
  identifier = tokenizer_id(spec, params)
  partial = directory / (WEIGHTS + '.partial')
  safetensors.numpy.save_file(flat, partial)
  os.replace(partial, directory / WEIGHTS)
  description = {
    'tokenizer_id': identifier,
    'spec': dataclasses.asdict(spec),
    'data': dataclasses.asdict(data),
  }
  partial = directory / (DESCRIPTION + '.partial')
  partial.write_text(json.dumps(description, indent=1))
  os.replace(partial, directory / DESCRIPTION)
  return identifier


def read_id(directory: str | os.PathLike[str]) -> str:
  """The id that the description states, without reading the weights."""
  return str(_describe(directory)['tokenizer_id'])


def load(directory: str | os.PathLike[str]) -> TrainedTokenizer:
  """Reads and verifies a trained tokenizer.

  Raises:
    DataError: a file is missing, unreadable, or not what its id says.
  """
  description = _describe(directory)
  file = pathlib.Path(directory) / WEIGHTS
  if not file.is_file():
    raise errors.DataError(
      f'{file}: the weights of the tokenizer are missing; train it again'
    )
  try:
    flat = safetensors.numpy.load_file(file)
  except safetensors.SafetensorError as error:
    raise errors.DataError(
      f'{file}: not a safetensors file ({error}); train the tokenizer again'
    ) from error
  spec = build(TokenizerSpec, description['spec'])
  data = build(DataSpec, description['data'])
  params = traverse_util.unflatten_dict(flat, sep='/')
  found = tokenizer_id(spec, params)
  if found != description['tokenizer_id']:
    raise errors.DataError(
      f'{file}: its content is {found}, but {DESCRIPTION} says '
      f'{description["tokenizer_id"]}; the file is corrupt or was replaced'
    )
  tokenizer = make_tokenizer(spec, data.resolution)
  return TrainedTokenizer(tokenizer, params, found, spec, data)


def load_of(
  run: RunSpec, directory: str, path: str | os.PathLike[str]
) -> TrainedTokenizer:
  """The tokenizer that a stage-2 run was trained with.

  Args:
    run: names where it was.
    directory: where it is now; '' is there.
    path: of the run, for errors.

  Raises:
    DataError: a file is missing or corrupt, or it is another tokenizer.
  """
  directory = directory or run.tokenizer_dir
  trained = load(directory)
  if trained.spec != run.tokenizer:
    raise errors.DataError(
      f'{directory}: is not the tokenizer that {path} was trained with'
    )
  return trained


def _describe(directory: str | os.PathLike[str]) -> dict:
  if not os.fspath(directory):
    raise errors.DataError(
      'tokenizer_dir is not set; give the workdir of a trained tokenizer'
    )
  file = pathlib.Path(directory) / DESCRIPTION
  if not file.is_file():
    raise errors.DataError(
      f'{file}: no trained tokenizer here; train one with `varjax train '
      '--config experiments/..._tokenizer.py --workdir ...` first'
    )
  try:
    description = json.loads(file.read_text())
  except json.JSONDecodeError as error:
    raise errors.DataError(f'{file}: not JSON ({error})') from error
  for key in ('tokenizer_id', 'spec', 'data'):
    if key not in description:
      raise errors.DataError(f'{file}: has no {key!r}; train it again')
  return description

"""What a run reads, and the id that follows from it.

The id of a stage-2 run covers the content of its tokenizer and of its code
cache, so that neither can change behind a finished record.
"""

from __future__ import annotations

import dataclasses

from varjax import backbones, errors, identity, warmstart
from varjax import spec as specs
from varjax.data import codes as code_cache
from varjax.data import sources
from varjax.tokenizers import artifact


@dataclasses.dataclass(frozen=True)
class Resolved:
  """A run and the contents it was resolved against.

  Attributes:
    run_id: hash of config, inputs and code.
    inputs: content hashes by name ('dataset', 'tokenizer', 'codes',
      'init_from', and those of `backbones.identities`).
    missing: inputs that are not there yet; the id is provisional then.
  """

  run_id: str
  inputs: dict[str, str]
  missing: tuple[str, ...] = ()


def resolve(run: specs.RunSpec, *, allow_missing: bool = False) -> Resolved:
  """Finds the inputs of a run and its id.

  Args:
    run: the spec.
    allow_missing: list absent inputs instead of raising, for dry runs.

  Raises:
    DataError: an input is missing, corrupt or of another tokenizer.
  """
  inputs: dict[str, str] = {}
  missing: list[str] = []

  def look_up(name, find):
    try:
      inputs[name] = find()
    except errors.VarjaxError as error:
      if not allow_missing:
        raise
      missing.append(f'{name}: {error}')

  if run.task == 'generate':
    look_up('tokenizer', lambda: artifact.read_id(run.tokenizer_dir))
  if run.task == 'generate' and run.input == 'codes':
    look_up(
      'codes',
      lambda: _codes_id(run.codes_dir, inputs.get('tokenizer')),
    )
  else:
    look_up(
      'dataset', lambda: sources.open_source(run.data, 'train').fingerprint
    )
  if run.init_from:
    look_up('init_from', lambda: warmstart.content_id(run.init_from))
  try:
    inputs |= backbones.identities(run)
  except errors.VarjaxError as error:
    if not allow_missing:
      raise
    missing.append(f'backbones: {error}')
  return Resolved(identity.run_id(run, inputs), inputs, tuple(missing))


def resolve_run_id(run: specs.RunSpec) -> str:
  """The id alone; see `resolve`."""
  return resolve(run).run_id


def _codes_id(directory: str, tokenizer_id: str | None) -> str:
  """Content hash of both splits of a code cache."""
  if not directory:
    raise errors.DataError(
      'codes_dir is not set; give a folder written by `varjax encode`, or '
      'set input=images'
    )
  ids = [
    code_cache.open_codes(
      directory, split, tokenizer_id=tokenizer_id
    ).fingerprint
    for split in ('train', 'validation')
  ]
  return identity.digest(ids)[:16]

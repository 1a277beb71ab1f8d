"""What makes two runs the same run: config, inputs and code, hashed.

A relaunched sweep skips a run whose id has a complete record, so the id
must change whenever the result could, and only then.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

from varjax import spec as specs

# Sources that can change what a run computes. Fitting, launching and the
# command line are left out: editing a plot must not orphan finished runs.
_CODE_OF_A_RUN = (
  'data',
  'tokenizers',
  'orders',
  'models',
  'losses',
  'discriminators',
  'tasks',
  'evals',
  'features',
  'backbones.py',
  'backends.py',
  'types.py',
  'schedule.py',
  'progressive.py',
  'optim.py',
  'groups.py',
  'averaging.py',
  'step.py',
  'train.py',
  'evaluate.py',
  'rng.py',
  'inputs.py',
  'feeder.py',
  'warmstart.py',
)

# Sections that a task does not read.
_UNUSED_BY = {
  'reconstruct': ('model', 'order', 'input', 'progressive'),
  'generate': ('reconstruct',),
}


def identity(run: specs.RunSpec) -> dict[str, Any]:
  """The part of a spec that decides what the run computes."""
  content = _identity_of(run)
  for section in _UNUSED_BY[run.task]:
    del content[section]
  return content


def run_id(run: specs.RunSpec, inputs: Mapping[str, str] | None = None) -> str:
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

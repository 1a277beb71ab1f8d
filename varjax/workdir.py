"""The folder of one run: which files it has, and whose run it is."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import json
import os
import pathlib
from typing import Any

from varjax import config, errors, identity, records
from varjax import spec as specs


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths below one run's folder.

  `run.json` names the run that owns the folder; `records.jsonl`,
  `curves.jsonl` and `metrics.jsonl` are its results; `checkpoints/` its
  state; `progress.json` how far it is.
  """

  path: pathlib.Path

  @property
  def run_file(self) -> pathlib.Path:
    """Which run the folder belongs to."""
    return self.path / 'run.json'

  @property
  def records(self) -> pathlib.Path:
    """The record of the run, see `varjax.records`."""
    return self.path / 'records.jsonl'

  @property
  def curves(self) -> pathlib.Path:
    """A record of every evaluation."""
    return self.path / 'curves.jsonl'

  @property
  def checkpoints(self) -> pathlib.Path:
    """A folder for each step that was saved."""
    return self.path / 'checkpoints'

  def claim(self, run: specs.RunSpec, run_id: str) -> None:
    """Makes the folder this run's, or checks that it already is.

    Raises:
      CheckpointError: the folder belongs to a run with another id.
    """
    if not self.run_file.exists():
      self.path.mkdir(parents=True, exist_ok=True)
      content = {'run_id': run_id, 'config': json.loads(config.to_json(run))}
      write_json(self.run_file, content)
      return
    owner = self._owner()
    if owner.get('run_id') == run_id:
      return
    raise errors.CheckpointError(
      f'{self.path}: belongs to run {owner.get("run_id")}, this is run '
      f'{run_id} ({self._difference(run)}); choose another --workdir'
    )

  def run(self) -> specs.RunSpec:
    """The spec of the run that owns this folder.

    Raises:
      CheckpointError: there is no run here.
    """
    if not self.run_file.is_file():
      raise errors.CheckpointError(
        f'{self.path}: no run.json; not the workdir of a `varjax train` run'
      )
    owner = self._owner()
    return config.to_spec(owner.get('config', {}), str(self.run_file))

  def run_id(self) -> str:
    """The id of the run that owns this folder."""
    return str(self._owner().get('run_id'))

  def _owner(self) -> dict[str, Any]:
    try:
      return json.loads(self.run_file.read_text())
    except json.JSONDecodeError as error:
      raise errors.CheckpointError(
        f'{self.run_file}: not JSON ({error}); remove the file to let the '
        'next run claim this folder'
      ) from error

  def _difference(self, run: specs.RunSpec) -> str:
    try:
      before = self.run()
    except errors.ConfigError:
      return 'its config is of another varjax version'
    old = dict(_flatten(identity.identity(before)))
    new = dict(_flatten(identity.identity(run)))
    changed = [
      f'{key}={old.get(key)!r} there, {new.get(key)!r} here'
      for key in sorted(old.keys() | new.keys())
      if old.get(key) != new.get(key)
    ]
    return '; '.join(changed[:3]) or 'same config, other inputs or code'


def find_run(path: str | os.PathLike[str], name: str = '') -> pathlib.Path:
  """The workdir of a run: `path` itself, or a complete run of a sweep.

  Args:
    path: workdir of a run, or of a sweep.
    name: of the run in the sweep; '' when `path` is the run.

  Raises:
    CheckpointError: the sweep has no complete run of that name.
  """
  root = pathlib.Path(path)
  if not name:
    return root
  complete = {
    record.name: record.run_id
    for record in records.latest(records.read(root / 'records.jsonl'))
    if record.status == 'complete'
  }
  for file in sorted(root.glob('trials/*/run.json')):
    if Workdir(file.parent).run_id() == complete.get(name):
      return file.parent
  names = ', '.join(sorted(str(n) for n in complete)) or 'none'
  raise errors.CheckpointError(
    f'{root}: no complete run named {name!r}; there are {names}'
  )


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes atomically, so that a kill leaves the old file or the new one."""
  partial = path.with_name(path.name + '.partial')
  with open(partial, 'w') as file:
    json.dump(content, file, indent=1, allow_nan=False)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def _flatten(tree: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  if isinstance(tree, dict):
    for key, value in tree.items():
      yield from _flatten(value, f'{prefix}.{key}' if prefix else key)
  else:
    yield prefix, tree

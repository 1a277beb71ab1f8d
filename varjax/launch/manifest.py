"""`sweep.json`: which trials a sweep directory is for, and who runs them.

The manifest holds the trials as last asked for, and under 'earlier' those
that former versions of the sweep asked for: their records stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
from typing import Any

from varjax import errors
from varjax.launch import base, lock

MANIFEST = 'sweep.json'
_RUNNING = 'running.json'


def update(
  sweep_dir: pathlib.Path, name: str, trials: Sequence[base.Trial]
) -> tuple[list[base.Trial], list[base.Trial]]:
  """Makes `trials` the current ones; former others move to 'earlier'.

  Returns:
    Trials that the directory did not know, and those that left the sweep.
  """
  path = sweep_dir / MANIFEST
  before: list[base.Trial] = []
  earlier: list[base.Trial] = []
  if path.is_file():
    _, before, earlier = read(sweep_dir)
  current = {trial.run_id for trial in trials}
  known = {trial.run_id for trial in [*before, *earlier]}
  left = [trial for trial in before if trial.run_id not in current]
  former = {t.run_id: t for t in [*earlier, *before]}
  write_json(
    path,
    {
      'sweep': name,
      'trials': [_to_json(t, sweep_dir) for t in trials],
      'earlier': [
        _to_json(t, sweep_dir)
        for run_id, t in former.items()
        if run_id not in current
      ],
    },
  )
  return [t for t in trials if t.run_id not in known], left


def read(
  sweep_dir: pathlib.Path,
) -> tuple[str, list[base.Trial], list[base.Trial]]:
  """The sweep's name, its trials and the earlier ones.

  Raises:
    LaunchError: no manifest there, or not one.
  """
  path = sweep_dir / MANIFEST
  if not path.is_file():
    raise errors.LaunchError(
      f'{sweep_dir}: no {MANIFEST}; give the --workdir of a sweep'
    )
  try:
    content = json.loads(path.read_text())
    current = [_from_json(v, sweep_dir) for v in content['trials']]
    earlier = [_from_json(v, sweep_dir) for v in content['earlier']]
    return str(content['sweep']), current, earlier
  except (ValueError, KeyError, TypeError) as error:
    raise errors.LaunchError(
      f'{path}: is not the manifest of a sweep ({error!r}); move it away, '
      'records and checkpoints are not affected'
    ) from error


def set_running(sweep_dir: pathlib.Path, running: Sequence[Mapping]) -> None:
  """Notes which trials run now, for `varjax status`.

  Args:
    sweep_dir: of the sweep.
    running: one of {'run_id', 'attempt', 'where', 'straggling'} per trial;
      'where' is null while it waits for a place.
  """
  write_json(sweep_dir / _RUNNING, [dict(entry) for entry in running])


def running(sweep_dir: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Trials that run now, by run id; none when no launcher is alive."""
  found = read_json(sweep_dir / _RUNNING)
  if not isinstance(found, list) or not lock.is_held(sweep_dir):
    return {}
  return {
    entry['run_id']: entry
    for entry in found
    if isinstance(entry, dict) and isinstance(entry.get('run_id'), str)
  }


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes atomically."""
  partial = path.with_suffix('.partial.json')
  with open(partial, 'w') as file:
    json.dump(content, file, indent=1)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def read_json(path: pathlib.Path) -> Any:
  """The content, or None where there is none that can be read."""
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return None


def _to_json(trial: base.Trial, sweep_dir: pathlib.Path) -> dict[str, Any]:
  return {
    'index': trial.index,
    'name': trial.name,
    'config': trial.config,
    'overrides': trial.overrides,
    'role': trial.role,
    'run_id': trial.run_id,
    # Relative, so that the whole directory can move.
    'workdir': os.path.relpath(trial.workdir, sweep_dir),
    'command': list(trial.command),
    'priority': trial.priority,
    'flops_per_image': trial.flops_per_image,
  }


def _from_json(values: dict[str, Any], sweep_dir: pathlib.Path) -> base.Trial:
  return base.Trial(
    **{
      **values,
      'workdir': sweep_dir / values['workdir'],
      'command': tuple(values['command']),
    }
  )

"""`sweep.json`: which trials a sweep directory is for, and who runs them.

The manifest holds the trials as last asked for, and under 'earlier' those
that former versions of the sweep asked for: their records stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import fcntl
import json
import os
import pathlib
import time
from typing import Any

from varjax import errors
from varjax.launch import base

MANIFEST = 'sweep.json'
LOCK = 'sweep.lock'
_RUNNING = 'running.json'
_LOCK_TRIES = 5


@contextlib.contextmanager
def locked(sweep_dir: pathlib.Path) -> Iterator[None]:
  """Holds the directory for this launcher; freed however it dies.

  Raises:
    LaunchError: another launcher holds it.
  """
  sweep_dir.mkdir(parents=True, exist_ok=True)
  with open(sweep_dir / LOCK, 'a+') as file:
    if not _acquire(file.fileno()):
      file.seek(0)
      raise errors.LaunchError(
        f'{sweep_dir}: another launcher (process {file.read().strip()}) runs '
        'this sweep; wait for it, stop it, or use another --workdir'
      )
    file.truncate(0)
    file.write(f'{os.getpid()}\n')
    file.flush()
    yield


def is_locked(sweep_dir: pathlib.Path) -> bool:
  """Whether a launcher is at work there."""
  path = sweep_dir / LOCK
  if not path.is_file():
    return False
  with open(path) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      return True
  return False


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


def set_running(sweep_dir: pathlib.Path, run_ids: Sequence[str]) -> None:
  """Notes which trials run now, for `varjax status`."""
  write_json(sweep_dir / _RUNNING, list(run_ids))


def running(sweep_dir: pathlib.Path) -> set[str]:
  """Trials that run now; none when no launcher is alive."""
  found = read_json(sweep_dir / _RUNNING)
  alive = isinstance(found, list) and is_locked(sweep_dir)
  return set(found) if alive else set()


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


def _acquire(descriptor: int) -> bool:
  for _ in range(_LOCK_TRIES):  # `is_locked` holds it for an instant
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      time.sleep(0.1)
    else:
      return True
  return False


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
  }


def _from_json(values: dict[str, Any], sweep_dir: pathlib.Path) -> base.Trial:
  return base.Trial(
    **{
      **values,
      'workdir': sweep_dir / values['workdir'],
      'command': tuple(values['command']),
    }
  )

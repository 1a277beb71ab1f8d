"""What engines beyond this machine share: orders for keepers, and endings.

One attempt of a trial is one keeper per process (see keeper.py), all with
the same token. The machines share the file system that the sweep lies on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
import sys
import time
import uuid

from varjax import errors
from varjax.launch import allocator, base, drive, keeper, lock, manifest

# A launcher that stood still for so long has lost its trials.
ORPHAN_S = 60.0
# Ends of processes that most often follow from those of others: found the
# others gone (`errors.PeerLost`), told to stop, done.
_AFTER_OTHERS = (errors.PeerLost.exit_code, base.PREEMPTED_EXIT_CODE, 0)
# Time to end for the other processes of a trial when one has failed.
GANG_GRACE_S = 10.0
_KEEPER = pathlib.Path(keeper.__file__)


@dataclasses.dataclass(frozen=True)
class Ordered:
  """An attempt that keepers may carry out.

  Attributes:
    trial: whose.
    token: of the attempt.
    commands: one per process of the trial, for any machine that sees the
      launcher's folders.
  """

  trial: base.Trial
  token: str
  commands: tuple[tuple[str, ...], ...]


def order(
  trial: base.Trial,
  sweep_dir: pathlib.Path,
  *,
  processes: int,
  environments: Sequence[Mapping[str, str]],
  cores: int = 0,
  python: str = sys.executable,
) -> Ordered:
  """Writes the orders of a new attempt, which ends the right of older ones.

  Args:
    trial: to start.
    sweep_dir: where its launcher beats.
    processes: of the trial.
    environments: variables for each of them.
    cores: to bind each to; 0: no binding.
    python: interpreter of the machines that run it.

  Raises:
    OSError: the orders cannot be written.
  """
  token = uuid.uuid4().hex
  workdir = trial.workdir.absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  commands = []
  for process in range(processes):
    log = 'log.txt' if process == 0 else f'log-{process}.txt'
    file = keeper.orders_file(workdir, process)
    keeper.write_json(
      file,
      {
        'token': token,
        'process': process,
        'workdir': str(workdir),
        'command': list(trial.command),
        'environment': {
          'PYTHONUNBUFFERED': '1',
          **allocator.with_huge_pages({}),
          **environments[process],
        },
        'cwd': os.getcwd(),
        'log': str(workdir / log),
        'cores': cores,
        'launcher_beat': str((sweep_dir / lock.BEAT).absolute()),
        'orphan_s': ORPHAN_S,
      },
    )
    commands.append((python, '-I', '-S', str(_KEEPER), str(file)))
  keeper.write_json(keeper.lease_file(workdir), {'token': token})
  return Ordered(trial, token, tuple(commands))


def stop(ordered: Ordered) -> None:
  """Tells every keeper of the attempt to let its process save and exit."""
  path = keeper.lease_file(ordered.trial.workdir)
  keeper.write_json(path, {'token': ordered.token, 'stop': True})


def forbid(ordered: Ordered) -> None:
  """Makes every keeper of the attempt kill its process."""
  path = keeper.lease_file(ordered.trial.workdir)
  keeper.write_json(path, {'token': 'none'})


def endings(ordered: Ordered) -> list[drive.Ending | None]:
  """How each process of the attempt ended, as far as its keeper has told."""
  found = []
  for process in range(len(ordered.commands)):
    path = keeper.ending_file(ordered.trial.workdir, process)
    content = manifest.read_json(path)
    ended = isinstance(content, dict) and content['token'] == ordered.token
    found.append(
      drive.Ending(content['exit_code'], content['why']) if ended else None
    )
  return found


class Gang:
  """Waits for the endings of all processes of an attempt.

  A process that fails alone leaves the others waiting for it, in a sum that
  it will never join: they are told to stop, and killed if that is in vain.
  """

  def __init__(self, ordered: Ordered):
    self._ordered = ordered
    self._alone_since: float | None = None

  def look(self) -> drive.Ending | None:
    """The ending of the attempt, None before; never waits."""
    found = endings(self._ordered)
    told = [ending for ending in found if ending is not None]
    if len(told) == len(found):
      return worst(told)
    if all(ending.exit_code == 0 for ending in told):
      return None
    now = time.monotonic()
    if self._alone_since is None:
      self._alone_since = now
      stop(self._ordered)
    if now - self._alone_since < GANG_GRACE_S:
      return None
    forbid(self._ordered)
    return worst(told)


def worst(found: Sequence[drive.Ending]) -> drive.Ending:
  """The ending of a trial whose processes ended like this.

  One process that fails takes the others with it, so the first cause
  counts: bad input, a crash, a kill, a loss; only then those that were told
  to stop, or that found the others gone.
  """

  def rank(ending: drive.Ending) -> int:
    code = ending.exit_code
    if code in base.FINAL_EXIT_CODES:
      return 0
    if code is None:
      return 3
    if code in _AFTER_OTHERS:
      return 4 + _AFTER_OTHERS.index(code)
    return 1 if code > 0 else 2

  return min(found, key=rank)


def distributed_environment(
  coordinator: str, processes: int, index: int
) -> dict[str, str]:
  """Variables that tell process `index` of a trial where the others are."""
  if processes == 1:
    return {}
  return {
    'JAX_COORDINATOR_ADDRESS': coordinator,
    'JAX_NUM_PROCESSES': str(processes),
    'JAX_PROCESS_ID': str(index),
  }

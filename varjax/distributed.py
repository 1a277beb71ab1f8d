"""Several processes that work as one, from the environment or from flags.

`start` is called by the commands before anything else touches JAX. With one
process it does nothing. `docs/distributed.md` shows how to start on a TPU
pod slice, under Slurm, under Open MPI and by hand.

The rest is what processes must agree on beside the arrays: who writes, when
to stop, and what an error of one means for the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import dataclasses
import glob
import importlib.util
import os
import sys
from typing import Any, NoReturn

import numpy as np

from varjax import errors

# Of a batch and of an update's values: see `AnyProcess`.
MARK = 'any_process'
# Seconds: a worker that has not been heard of for this long is dead.
HEARTBEAT_S = 30
_START_S = 300


@dataclasses.dataclass(frozen=True)
class Group:
  """How a process finds the others.

  Attributes:
    source: where this was read from, for messages.
    coordinator: host:port of process 0; '' lets JAX ask the cluster.
    process_id, processes: number of this one, and of all; -1: ask.
  """

  source: str
  coordinator: str = ''
  process_id: int = -1
  processes: int = -1


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """The flags of every command that runs on several processes."""
  group = parser.add_argument_group(
    'several processes',
    'found by itself on a TPU pod slice, under srun and under mpirun;\n'
    'elsewhere start the command once for each process',
  )
  group.add_argument('--coordinator', help='HOST:PORT of process 0')
  group.add_argument('--process_id', type=int, help='0 to num_processes - 1')
  group.add_argument('--num_processes', type=int, help='of all hosts')


def find(
  args: argparse.Namespace | None = None,
  environ: Mapping[str, str] = os.environ,
) -> Group | None:
  """The group that flags or the environment describe; None: one process.

  Flags win, then JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and
  JAX_PROCESS_ID, a Slurm step (`srun`), Open MPI, a TPU slice.

  Raises:
    ConfigError: some of the three values without the others, or values
      that contradict each other.
  """
  flags = (
    getattr(args, 'coordinator', None),
    getattr(args, 'process_id', None),
    getattr(args, 'num_processes', None),
  )
  names = ('--coordinator', '--process_id', '--num_processes')
  if any(value is not None for value in flags):
    return _explicit('the flags', dict(zip(names, flags, strict=True)))
  names = ('JAX_COORDINATOR_ADDRESS', 'JAX_PROCESS_ID', 'JAX_NUM_PROCESSES')
  if environ.get(names[0]):
    return _explicit('the environment', {n: environ.get(n) for n in names})
  # A batch script has SLURM_NTASKS as well; only a step has its own count.
  if int(environ.get('SLURM_STEP_NUM_TASKS') or 1) > 1:
    return Group('slurm')
  if int(environ.get('OMPI_COMM_WORLD_SIZE') or 1) > 1:
    return Group('ompi')
  return Group('tpu') if _on_tpu_host(environ) else None


def start(args: argparse.Namespace | None = None) -> None:
  """Joins the other processes, if there are any; a second call does nothing.

  Raises:
    ConfigError: as `find`.
    PeerLost: the others did not come, or the coordinator is not reachable.
  """
  found = find(args)
  if found is None or found.processes == 1:
    return
  import jax  # only now: a single process does not wait for it

  if jax.distributed.is_initialized():
    return
  options = {}
  if found.coordinator:
    options = {
      'coordinator_address': found.coordinator,
      'num_processes': found.processes,
      'process_id': found.process_id,
      'cluster_detection_method': 'deactivate',
    }
  elif found.source != 'tpu':
    options = {'cluster_detection_method': found.source}
  try:
    jax.distributed.initialize(
      **options,
      initialization_timeout=_START_S,
      heartbeat_timeout_seconds=HEARTBEAT_S,
    )
  except (RuntimeError, ValueError) as error:
    first = (str(error).strip().splitlines() or [''])[0]
    raise errors.PeerLost(
      f'could not join the other processes that {found.source} names '
      f'({first}); see docs/distributed.md, or unset them to use one process'
    ) from error


def leave(code: int) -> None:
  """Ends this process at once after an error, where others would wait.

  An orderly exit waits for all processes at a barrier, and these may be
  waiting in a sum that this one never joins. Does nothing alone.
  """
  if is_group():
    exit_now(code)


def is_group() -> bool:
  """Whether `start` has joined other processes."""
  jax = sys.modules.get('jax')
  return jax is not None and jax.distributed.is_initialized()


def exit_now(code: int) -> NoReturn:
  """Ends the process without waiting for threads that never end."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def barrier(name: str) -> None:
  """Returns when every process is here."""
  import jax

  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(f'varjax.{name}')


def on_first(do: Callable[[], str | None]) -> str:
  """Runs `do` on process 0 while the others wait; all get what it returned.

  Raises:
    VarjaxError: what `do` raised, on process 0; PeerLost on the others.
  """
  import jax

  if jax.process_count() == 1:
    return do() or ''
  failure, text = None, ''
  if jax.process_index() == 0:
    try:
      text = do() or ''
    except errors.VarjaxError as error:
      failure = error
  told = gather('!' if failure else text)[0]
  if failure:
    raise failure
  if told == '!':
    raise errors.PeerLost('process 0 stopped; its message says why')
  return told


def gather(text: str) -> list[str]:
  """The text of every process, in the order of their numbers."""
  import jax

  if jax.process_count() == 1:
    return [text]
  from jax.experimental import multihost_utils

  data = np.frombuffer(text.encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array(data.size, np.int32))
  padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
  padded[: data.size] = data
  rows = multihost_utils.process_allgather(padded)
  return [
    bytes(row[:length]).decode()
    for row, length in zip(rows, lengths.ravel(), strict=True)
  ]


class AnyProcess:
  """Whether any process raised its hand, known to all at the same update.

  A stop signal does not reach all processes between the same two updates.
  The question travels with the batch (`mark`), so that it is part of the
  update and needs no program of its own, which could overtake it; `step`
  answers with the largest mark. The answer is read one update late, so that
  nobody waits for it.
  """

  def __init__(self) -> None:
    import jax

    self._alone = jax.process_count() == 1
    self._before: Any = None

  def mark(self, rows: int, raised: bool) -> dict[str, np.ndarray]:
    """The hand of this process, for its rows of a batch; alone, nothing.

    Apart from the batch, which may have been read before the hand was
    raised.
    """
    return {} if self._alone else {MARK: np.full(rows, raised, np.float32)}

  def __call__(self, values: dict[str, Any], raised: bool) -> bool:
    """Takes the answer out of an update's values; tells the one before."""
    if self._alone:
      return raised
    before, self._before = self._before, values.pop(MARK)
    return before is not None and bool(np.asarray(before) > 0)


def _explicit(source: str, values: Mapping[str, str | int | None]) -> Group:
  missing = [name for name, value in values.items() if value in (None, '')]
  if missing:
    raise errors.ConfigError(
      f'{", ".join(missing)}: must be set as well; a process needs '
      f'{", ".join(values)}'
    )
  coordinator, *numbers = (str(value) for value in values.values())
  names = list(values)
  if ':' not in coordinator or not coordinator.rpartition(':')[2].isdigit():
    raise errors.ConfigError(
      f'{names[0]}={coordinator}: must be HOST:PORT of process 0'
    )
  if not all(number.isdigit() for number in numbers):
    raise errors.ConfigError(
      f'{names[1]}={numbers[0]}, {names[2]}={numbers[1]}: must be whole numbers'
    )
  process_id, processes = map(int, numbers)
  if not process_id < processes:
    raise errors.ConfigError(
      f'{names[1]}={process_id}: must be below {names[2]}={processes}'
    )
  return Group(source, coordinator, process_id, processes)


def _on_tpu_host(environ: Mapping[str, str]) -> bool:
  """Whether JAX will find TPU chips here, and so the rest of their slice."""
  platforms = environ.get('JAX_PLATFORMS', 'tpu')
  has_chips = bool(glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*'))
  return (
    'tpu' in platforms
    and has_chips
    and importlib.util.find_spec('libtpu') is not None
  )

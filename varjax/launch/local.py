"""The local engine: trials as subprocesses of this machine, N at a time."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

from varjax.launch import allocator, base, drive, options, policy

_CHILD = pathlib.Path(__file__).with_name('child.py')


def cores() -> list[int]:
  """The processor cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def default_parallel() -> int:
  """One trial for every two cores, at least one."""
  return max(1, len(cores()) // 2)


def split_cores(available: Sequence[int], parallel: int) -> list[list[int]]:
  """Shares cores among trials: disjoint where there are enough of them.

  All shares are equal and a remainder stays idle: the number of threads
  decides how XLA splits sums on a CPU, so the last bits of a loss would
  depend on which share a trial happened to get.
  """
  if parallel >= len(available):
    return [[available[i % len(available)]] for i in range(parallel)]
  share = len(available) // parallel
  return [list(available[i * share :][:share]) for i in range(parallel)]


@dataclasses.dataclass(frozen=True)
class LocalEngine:
  """Runs trials as subprocesses; see `base.Engine` for the promises.

  On Linux the trials die with the launcher, however it dies.

  Attributes:
    policy: retries and stragglers; parallel=0 is one for every two cores.
    pin_cores: give each of several parallel trials its own cores, so that
      their thread pools are sized for what they get (Linux).
    sweep: name handed to the trials as VARJAX_SWEEP.
    environment: further variables for the trials.
    poll_s: how often to look.
  """

  policy: policy.Policy = policy.Policy()
  pin_cores: bool = True
  sweep: str = ''
  environment: dict[str, str] = dataclasses.field(default_factory=dict)
  poll_s: float = 0.05

  @classmethod
  def from_options(cls, given: options.Options) -> LocalEngine:
    """As the command line asks for."""
    return cls(
      given.policy, given.pin_cores, given.sweep, dict(given.environment)
    )

  def plan(self, trials: Sequence[base.Trial]) -> str:
    """See `base.Engine.plan`."""
    shares = split_cores(cores(), self.policy.parallel or default_parallel())
    return (
      f'local: {len(trials)} trials, {len(shares)} at a time with '
      f'{len(shares[0])} cores each'
    )

  def run(
    self, trials: Sequence[base.Trial], observer: base.Observer
  ) -> tuple[list[base.Outcome], int]:
    """See `base.Engine.run`."""
    host = _ThisMachine(self)
    return drive.drive(trials, observer, host, self.policy, self.poll_s)


class _ThisMachine:
  """The host of the local engine."""

  settle_s = 0.0

  def __init__(self, engine: LocalEngine):
    self._engine = engine
    self._shares = split_cores(
      cores(), engine.policy.parallel or default_parallel()
    )

  def slots(self) -> int:
    return len(self._shares)

  def start(
    self, starts: Sequence[drive.Start]
  ) -> list[_Process | drive.NotStarted]:
    return [self._start(start) for start in starts]

  def close(self) -> None:
    pass

  def _start(self, start: drive.Start) -> _Process | drive.NotStarted:
    share = self._shares[start.slot]
    environment = allocator.with_huge_pages(os.environ)
    environment['PYTHONUNBUFFERED'] = '1'
    if self._engine.sweep:
      environment['VARJAX_SWEEP'] = self._engine.sweep
    pinned = ''
    if self._engine.pin_cores and len(self._shares) > 1:
      pinned = ','.join(map(str, share))
      # XLA sizes its pools by the cores it may use; BLAS does not.
      environment.setdefault('OMP_NUM_THREADS', str(len(share)))
    environment.update(self._engine.environment)
    command = [
      sys.executable, '-I', '-S', str(_CHILD), str(os.getpid()), pinned,
      *start.trial.command,
    ]  # fmt: skip
    try:
      with open(start.trial.log, 'ab') as log:
        # A session of its own: Ctrl-C reaches the launcher alone, which
        # then stops its trials in order.
        process = subprocess.Popen(
          command,
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=subprocess.STDOUT,
          env=environment,
          start_new_session=True,
        )
    except OSError as error:
      return drive.NotStarted(f'could not be started: {error}')
    return _Process(process)


@dataclasses.dataclass(frozen=True)
class _Process:
  """An attempt of the local engine."""

  process: subprocess.Popen[bytes]

  def where(self) -> str | None:
    return f'process {self.process.pid}'

  def poll(self) -> drive.Ending | None:
    code = self.process.poll()
    return None if code is None else drive.Ending(code)

  def stop(self) -> None:
    if self.process.poll() is None:
      self.process.terminate()

  def kill(self) -> None:
    if self.process.poll() is None:
      os.killpg(self.process.pid, signal.SIGKILL)
      self.process.wait()

"""The local engine: trials as subprocesses of this machine, N at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from varjax import errors
from varjax.launch import allocator, base, logs

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


@dataclasses.dataclass
class _Job:
  """A trial that has not ended."""

  trial: base.Trial
  attempt: int = 0
  ready_at: float = 0.0
  wall_s: float = 0.0


@dataclasses.dataclass
class _Running:
  """An attempt under way; `log_start` is where its output begins."""

  job: _Job
  process: subprocess.Popen[bytes]
  log_start: int
  started_at: float


@dataclasses.dataclass
class _Stop:
  """Signals received: the last number, how many, how many were handled."""

  signum: int = 0
  count: int = 0
  handled: int = 0


@dataclasses.dataclass(frozen=True)
class LocalEngine:
  """Runs trials as subprocesses; see `base.Engine` for the promises.

  On the first SIGINT, SIGTERM or SIGHUP the trials get SIGTERM, so that
  they save and exit; on the second they are killed. On Linux they die with
  the launcher, however it dies.

  Attributes:
    parallel: trials at a time; 0 is one for every two cores.
    retries: further attempts after a crash.
    backoff_s: wait before the first retry; doubles with every further one.
    pin_cores: give each of several parallel trials its own cores, so that
      their thread pools are sized for what they get (Linux).
    sweep: name handed to the trials as VARJAX_SWEEP.
    poll_s: how often to look.
  """

  parallel: int = 0
  retries: int = 2
  backoff_s: float = 5.0
  pin_cores: bool = True
  sweep: str = ''
  poll_s: float = 0.05

  def run(
    self, trials: Sequence[base.Trial], observer: base.Observer
  ) -> tuple[list[base.Outcome], int]:
    """See `base.Engine.run`."""
    slots = split_cores(cores(), self.parallel or default_parallel())
    waiting = [_Job(trial) for trial in trials]
    running: dict[int, _Running] = {}
    outcomes: dict[int, base.Outcome] = {}
    with _signals() as stop:
      try:
        while running or (waiting and not stop.count):
          _pass_on(stop, running, observer)
          for slot in range(len(slots)):
            job = None if slot in running else _next_ready(waiting)
            if job and not stop.count:
              waiting.remove(job)
              running[slot] = self._start(job, slots[slot], len(slots))
              observer.started(job.trial, job.attempt)
          for slot, attempt in list(running.items()):
            if attempt.process.poll() is None:
              continue
            del running[slot]
            outcome = self._judge(attempt, bool(stop.count), observer)
            if outcome is None:
              waiting.append(attempt.job)
            else:
              outcomes[outcome.trial.index] = outcome
              observer.ended(outcome)
          observer.tick()
          time.sleep(self.poll_s)
      finally:
        _kill(running)
    for job in waiting:
      outcomes[job.trial.index] = base.Outcome(
        job.trial, 'stopped', job.attempt, wall_s=job.wall_s
      )
    return [outcomes[trial.index] for trial in trials], stop.signum

  def _start(self, job: _Job, share: list[int], parallel: int) -> _Running:
    job.attempt += 1
    job.trial.workdir.mkdir(parents=True, exist_ok=True)
    environment = allocator.with_huge_pages(os.environ)
    environment['PYTHONUNBUFFERED'] = '1'
    if self.sweep:
      environment['VARJAX_SWEEP'] = self.sweep
    pinned = ''
    if self.pin_cores and parallel > 1:
      pinned = ','.join(map(str, share))
      # XLA sizes its pools by the cores it may use; BLAS does not.
      environment.setdefault('OMP_NUM_THREADS', str(len(share)))
    command = [
      sys.executable, '-I', '-S', str(_CHILD), str(os.getpid()), pinned,
      *job.trial.command,
    ]  # fmt: skip
    with open(job.trial.log, 'ab') as log:
      log.write(logs.header(job.attempt, job.trial.command))
      log.flush()
      log_start = log.tell()
      # A session of its own: Ctrl-C reaches the launcher alone, which then
      # stops its trials in order.
      process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
      )
    return _Running(job, process, log_start, time.monotonic())

  def _judge(
    self, attempt: _Running, stopping: bool, observer: base.Observer
  ) -> base.Outcome | None:
    """The outcome of an attempt that ended, or None: it will be retried."""
    job, code = attempt.job, attempt.process.returncode
    job.wall_s += time.monotonic() - attempt.started_at
    status, error = _verdict(attempt)
    if status == 'failed' and stopping and code not in base.FINAL_EXIT_CODES:
      status, error = 'stopped', None
    retry = job.attempt <= self.retries and code not in base.FINAL_EXIT_CODES
    if status == 'failed' and retry:
      wait_s = self.backoff_s * 2 ** (job.attempt - 1)
      job.ready_at = time.monotonic() + wait_s
      observer.retrying(job.trial, error or '', wait_s)
      return None
    return base.Outcome(job.trial, status, job.attempt, code, error, job.wall_s)


def _verdict(attempt: _Running) -> tuple[str, str | None]:
  """('complete', None) or ('failed', why), from the record alone."""
  trial, code = attempt.job.trial, attempt.process.returncode
  try:
    if trial.is_complete():
      return 'complete', None
  except errors.RecordError as error:
    return 'failed', str(error)
  return 'failed', logs.reason(trial, code, attempt.log_start)


def _next_ready(waiting: list[_Job]) -> _Job | None:
  now = time.monotonic()
  return next((job for job in waiting if job.ready_at <= now), None)


def _pass_on(
  stop: _Stop, running: dict[int, _Running], observer: base.Observer
) -> None:
  """Tells the trials once for every signal the launcher got."""
  if stop.handled == stop.count:
    return
  first = stop.handled == 0
  stop.handled = stop.count
  observer.stopping(signal.Signals(stop.signum).name)
  for attempt in running.values():
    if attempt.process.poll() is None:
      if first and stop.count == 1:
        attempt.process.terminate()
      else:
        os.killpg(attempt.process.pid, signal.SIGKILL)


def _kill(running: dict[int, _Running]) -> None:
  """Ends what an exception in the launcher has left behind."""
  for attempt in running.values():
    if attempt.process.poll() is None:
      os.killpg(attempt.process.pid, signal.SIGKILL)
      attempt.process.wait()


@contextlib.contextmanager
def _signals() -> Iterator[_Stop]:
  """Counts stop signals while inside, where Python allows it."""
  stop = _Stop()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return

  def note(signum: int, frame: object) -> None:
    del frame
    stop.signum = signum
    stop.count += 1

  numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
  before = {
    number: signal.signal(number, note)
    for number in numbers
    # Under nohup a hang-up is ignored, and must stay so.
    if signal.getsignal(number) is not signal.SIG_IGN
  }
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)

"""The loop that every supervised engine shares.

A host (this machine, a Ray cluster, Slurm) starts attempts and can be asked
about them; the loop decides what starts when, what is tried again and when
to give up, and so keeps the promises of `base.Engine` for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import time
from typing import Protocol

from varjax import errors
from varjax.launch import base, logs, manifest, stragglers
from varjax.launch import policy as policies
from varjax.launch import stop as stopping

_LOOK_FOR_STRAGGLERS_S = 1.0


@dataclasses.dataclass(frozen=True)
class Ending:
  """How an attempt ended.

  Attributes:
    exit_code: negative is a signal; None: it never ran, or was lost.
    why: what the host knows about it; the log is asked otherwise.
  """

  exit_code: int | None
  why: str | None = None


class Attempt(Protocol):
  """One start of a trial."""

  def where(self) -> str | None:
    """The place it runs at, None while it waits for one."""

  def poll(self) -> Ending | None:
    """How it ended, None before; never blocks for long."""

  def stop(self) -> None:
    """Lets it save and exit."""

  def kill(self) -> None:
    """Ends it now; returns when nothing of it can write any more."""


@dataclasses.dataclass(frozen=True)
class Start:
  """A trial to start: its attempt number and its slot, from 0."""

  trial: base.Trial
  attempt: int
  slot: int


class Host(Protocol):
  """What runs attempts."""

  # A record may become visible here so long after the attempt has ended.
  settle_s: float

  def slots(self) -> int:
    """Attempts that may run at a time, at this moment."""
    ...

  def start(self, starts: Sequence[Start]) -> Sequence[Attempt]:
    """Starts attempts; one that cannot start is a `NotStarted`."""
    ...

  def close(self) -> None:
    """Frees what the host holds; no attempt runs any more."""


@dataclasses.dataclass(frozen=True)
class NotStarted:
  """An attempt that has ended before it began."""

  why: str

  def where(self) -> str | None:
    """Nowhere."""
    return None

  def poll(self) -> Ending | None:
    """Its ending, at once."""
    return Ending(None, self.why)

  def stop(self) -> None:
    """Nothing runs that could be stopped."""

  def kill(self) -> None:
    """Nothing runs that could be killed."""


@dataclasses.dataclass
class _Job:
  """A trial that has not ended: starts, and those of them that count."""

  trial: base.Trial
  starts: int = 0
  counted: int = 0
  ready_at: float = 0.0
  wall_s: float = 0.0


@dataclasses.dataclass
class _Running:
  """An attempt under way; `log_start` is where its output begins."""

  job: _Job
  attempt: Attempt
  log_start: int
  began_at: float
  first_step: int
  where: str | None = None
  straggling: str = ''
  # Set while a straggler is being stopped: when to kill it.
  kill_at: float | None = None
  # Set once it has ended: until when to wait for its record.
  ending: Ending | None = None
  settle_until: float = 0.0


def drive(
  trials: Sequence[base.Trial],
  observer: base.Observer,
  host: Host,
  policy: policies.Policy,
  poll_s: float = 0.05,
) -> tuple[list[base.Outcome], int]:
  """Runs all trials on a host; see `base.Engine.run`.

  On the first SIGINT, SIGTERM or SIGHUP the trials are told to save and
  exit; on the second they are killed.
  """
  loop = _Loop(trials, observer, host, policy)
  with stopping.signals() as stop:
    try:
      while loop.running or (loop.waiting and not stop.count):
        loop.pass_on(stop)
        if not stop.count:
          loop.start_ready()
        loop.look(stop)
        observer.tick()
        time.sleep(poll_s)
    finally:
      loop.kill_all()
      host.close()
  return loop.outcomes(trials), stop.signum


class _Loop:
  """State of `drive`, and its parts."""

  def __init__(
    self,
    trials: Sequence[base.Trial],
    observer: base.Observer,
    host: Host,
    policy: policies.Policy,
  ):
    self.waiting = [
      _Job(t) for t in sorted(trials, key=lambda t: (-t.priority, t.index))
    ]
    self.running: dict[int, _Running] = {}
    self._ended: dict[int, base.Outcome] = {}
    self._observer, self._host, self._policy = observer, host, policy
    self._watch = stragglers.Watch(policy)
    self._looked_s = time.monotonic()

  def pass_on(self, stop: stopping.Stop) -> None:
    """Tells the trials once for every signal the launcher got."""
    if stop.handled == stop.count:
      return
    first = stop.handled == 0 and stop.count == 1
    stop.handled = stop.count
    self._observer.stopping(stop.name)
    for running in self.running.values():
      if first:
        running.attempt.stop()
      else:
        running.attempt.kill()

  def start_ready(self) -> None:
    """Fills the free slots with trials that need not wait."""
    free = [s for s in range(self._host.slots()) if s not in self.running]
    now = time.monotonic()
    ready = [job for job in self.waiting if job.ready_at <= now][: len(free)]
    if not ready:
      return
    starts = []
    log_starts = []
    for job, slot in zip(ready, free[: len(ready)], strict=True):
      self.waiting.remove(job)
      job.starts += 1
      job.counted += 1
      log_starts.append(_begin_log(job))
      starts.append(Start(job.trial, job.starts, slot))
    attempts = self._host.start(starts)
    for job, start, attempt, log_start in zip(
      ready, starts, attempts, log_starts, strict=True
    ):
      self.running[start.slot] = _Running(
        job, attempt, log_start, time.monotonic(), _step(job.trial)
      )
      self._observer.started(job.trial, job.starts)

  def look(self, stop: stopping.Stop) -> None:
    """Asks every attempt how it is, and judges those that have ended."""
    now = time.monotonic()
    for slot, running in list(self.running.items()):
      self._notice_place(running, now)
      if running.kill_at is not None and now >= running.kill_at:
        running.kill_at = None
        running.attempt.kill()
      if running.ending is None:
        running.ending = running.attempt.poll()
        running.settle_until = now + self._host.settle_s
      if running.ending is None or _still_settles(running, now):
        continue
      del self.running[slot]
      self._watch.end(running.job.trial)
      outcome = self._judge(running, running.ending, bool(stop.count))
      if outcome is None:
        self.waiting.append(running.job)
        self.waiting.sort(key=lambda j: (-j.trial.priority, j.trial.index))
      else:
        self._ended[outcome.trial.index] = outcome
        self._observer.ended(outcome)
    if now - self._looked_s >= _LOOK_FOR_STRAGGLERS_S:
      self._looked_s = now
      self._handle_stragglers(now, bool(stop.count))

  def kill_all(self) -> None:
    """Ends what an exception in the launcher has left behind."""
    for running in self.running.values():
      running.attempt.kill()

  def outcomes(self, trials: Sequence[base.Trial]) -> list[base.Outcome]:
    """In the order of the trials; what never ended was stopped."""
    for job in self.waiting:
      self._ended[job.trial.index] = base.Outcome(
        job.trial, 'stopped', job.starts, wall_s=job.wall_s
      )
    return [self._ended[trial.index] for trial in trials]

  def _notice_place(self, running: _Running, now: float) -> None:
    if running.where is None:
      running.where = running.attempt.where()
      if running.where is not None:
        self._watch.begin(running.job.trial, now)
        self._observer.running(running.job.trial, running.where)

  def _handle_stragglers(self, now: float, stopping_all: bool) -> None:
    found = self._watch.find(now)
    for running in self.running.values():
      trial = running.job.trial
      why = found.get(trial.run_id, '')
      if bool(why) != bool(running.straggling):
        self._observer.straggling(trial, why)
        running.straggling = why
      restart = why and self._policy.restart_stragglers and not stopping_all
      may = running.job.counted <= self._policy.retries
      if restart and may and running.kill_at is None:
        running.straggling = why
        running.kill_at = now + self._policy.grace_s
        running.attempt.stop()

  def _judge(
    self, running: _Running, ending: Ending, stopping_all: bool
  ) -> base.Outcome | None:
    """The outcome of an attempt that ended, or None: it will be retried."""
    job, code = running.job, ending.exit_code
    job.wall_s += time.monotonic() - running.began_at
    status, error = _verdict(running, ending)
    final = code in base.FINAL_EXIT_CODES
    if status == 'failed' and stopping_all and not final:
      status, error = 'stopped', None
    if status != 'failed' or final:
      return base.Outcome(
        job.trial, status, job.starts, code, error, job.wall_s
      )
    wait_s = self._policy.wait_s(job.counted)
    restarted = bool(running.straggling) and self._policy.restart_stragglers
    if restarted:
      error = f'straggler restarted: {running.straggling}'
    elif code == base.PREEMPTED_EXIT_CODE:
      error = f'preempted: {error}'
      if _step(job.trial) > running.first_step:
        job.counted -= 1
        wait_s = self._policy.backoff_s
    if job.counted > self._policy.retries:
      return base.Outcome(
        job.trial, status, job.starts, code, error, job.wall_s
      )
    job.ready_at = time.monotonic() + wait_s
    self._observer.retrying(job.trial, error or '', wait_s)
    return None


def _begin_log(job: _Job) -> int:
  """Where the output of the attempt begins in the trial's log."""
  try:
    return logs.begin(job.trial, job.starts)
  except OSError:
    # A full disk: the host will find out as well, and say so.
    return 0


def _still_settles(running: _Running, now: float) -> bool:
  """Whether a record that should be there may yet become visible."""
  assert running.ending is not None
  if running.ending.exit_code != 0 or now >= running.settle_until:
    return False
  return _verdict(running, running.ending)[0] != 'complete'


def _verdict(running: _Running, ending: Ending) -> tuple[str, str | None]:
  """('complete', None) or ('failed', why), from the record alone."""
  trial = running.job.trial
  try:
    if trial.is_complete():
      return 'complete', None
  except errors.RecordError as error:
    return 'failed', str(error)
  if ending.why is not None or ending.exit_code is None:
    return 'failed', ending.why or 'was lost'
  return 'failed', logs.reason(trial, ending.exit_code, running.log_start)


def _step(trial: base.Trial) -> int:
  """Updates that the trial has made, as far as it told."""
  content = manifest.read_json(trial.progress)
  step = content.get('step') if isinstance(content, dict) else None
  return step if isinstance(step, int) else 0

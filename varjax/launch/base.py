"""What a launch engine is given, what it reports, what it must promise.

An engine starts the command of each trial and says how it ended; it knows
nothing of sweeps, records or tables. Engines: `launch.ENGINES`.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any, Protocol

from varjax import records

# Exit codes of the typed errors: the same input fails the same way again
# (bad input 2 and 3, a diverged run 4, no room 5), so a retry would be wasted.
FINAL_EXIT_CODES = (2, 3, 4, 5)
# `errors.Interrupted`: a signal arrived, the state was saved.
PREEMPTED_EXIT_CODE = 143


@dataclasses.dataclass(frozen=True)
class Trial:
  """One run of a sweep.

  Attributes:
    index: place in the sweep, from 0.
    name: for people.
    config: experiment path with its argument.
    overrides: dotted keys of the RunSpec, beyond the experiment's.
    role: of the resolved RunSpec.
    run_id: of the resolved RunSpec.
    workdir: folder of the run.
    command: what to start.
    priority: trials with a higher one start first.
    flops_per_image: training work, to compare speeds; None: not known.
  """

  index: int
  name: str
  config: str
  overrides: dict[str, Any]
  role: str
  run_id: str
  workdir: pathlib.Path
  command: tuple[str, ...]
  priority: int = 0
  flops_per_image: float | None = None

  @property
  def records(self) -> pathlib.Path:
    """Where the run leaves its record."""
    return self.workdir / 'records.jsonl'

  @property
  def log(self) -> pathlib.Path:
    """Everything the run printed, of all attempts."""
    return self.workdir / 'log.txt'

  @property
  def progress(self) -> pathlib.Path:
    """Rewritten by the run while it trains."""
    return self.workdir / 'progress.json'

  def is_complete(self) -> bool:
    """Whether the run left a complete record.

    Raises:
      RecordError: the record file is not one.
    """
    if not self.records.is_file():
      return False
    return any(
      r.run_id == self.run_id and r.status == 'complete'
      for r in records.read(self.records)
    )


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a trial ended.

  Attributes:
    trial: which one.
    status: 'complete', 'failed', 'stopped' (the launcher was told to stop;
      the trial resumes when the sweep is run again), or 'written' (as a
      command for another launcher to run).
    attempts: how often it was started.
    exit_code: of the last attempt; negative is a signal; None: not started.
    error: one line, for failed trials.
    wall_s: time of all attempts.
  """

  trial: Trial
  status: str
  attempts: int = 0
  exit_code: int | None = None
  error: str | None = None
  wall_s: float = 0.0


class Observer(Protocol):
  """Is told what happens, from the engine's own thread."""

  def started(self, trial: Trial, attempt: int) -> None:
    """An attempt (from 1) has been handed to what runs it."""

  def running(self, trial: Trial, where: str) -> None:
    """The attempt's process runs, at the named place."""

  def retrying(self, trial: Trial, error: str, wait_s: float) -> None:
    """An attempt crashed and another will follow after `wait_s`."""

  def straggling(self, trial: Trial, why: str) -> None:
    """A running trial is far slower than others, or silent; '': no more."""

  def note(self, text: str) -> None:
    """Something about the engine itself that a person should know."""

  def stopping(self, signal_name: str) -> None:
    """The engine was told to stop and waits for its trials."""

  def ended(self, outcome: Outcome) -> None:
    """A trial will not be started again."""

  def tick(self) -> None:
    """Called often while trials run."""


class Engine(Protocol):
  """Runs trials.

  An engine starts each trial at most `retries + 1` times, never retries
  `FINAL_EXIT_CODES`, reports 'complete' only for a trial with a complete
  record, and leaves no trial running when it returns, raises or dies. A
  start that a preemption ended is not counted if the trial saved and had
  moved on (exit code 143 and more steps than before).
  """

  def plan(self, trials: Sequence[Trial]) -> str:
    """What `run` would ask for, as text; starts and writes nothing."""
    ...

  def run(
    self, trials: Sequence[Trial], observer: Observer
  ) -> tuple[list[Outcome], int]:
    """Runs all trials.

    Returns:
      Outcomes in the order of the trials, and the signal number that
      stopped the engine, or 0.
    """
    ...

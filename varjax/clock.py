"""Where the wall time of a run goes; survives restarts.

Durations come from a monotonic clock and are added up from process to
process, so that a wall clock which is set back, or which differs between
hosts, changes none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import time
from typing import Any

PHASES = (
  'setup', 'compile', 'data', 'step', 'evaluate', 'checkpoint', 'restart',
)  # fmt: skip


class Clock:
  """Adds up seconds by phase.

  Phases do not nest. `wall_s` counts from construction, plus what earlier
  processes of the same run had spent (`restore`). The phase 'restart' is
  what a kill cost: updates that were made twice, and all but the first
  setup.

  Attributes:
    seconds: of the host, by phase. In 'data' the devices may be busy.
    idle_s: of 'data', when the devices had nothing to do.
    restarts: processes before this one.
  """

  def __init__(self) -> None:
    self._start = time.monotonic()
    self._before = 0.0
    self.restarts = 0
    self.seconds = dict.fromkeys(PHASES, 0.0)
    self.idle_s = 0.0

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Times a block of work as `name`, one of PHASES."""
    start = time.monotonic()
    try:
      yield
    finally:
      self.seconds[name] += time.monotonic() - start

  @property
  def wall_s(self) -> float:
    """Seconds of wall time of this run, all processes in sequence."""
    return self._before + time.monotonic() - self._start

  @property
  def goodput(self) -> float:
    """Share of the wall time spent in training steps that counted."""
    return min(self.seconds['step'] / max(self.wall_s, 1e-9), 1.0)

  @property
  def data_stall(self) -> float:
    """Share of the loop in which devices idled because a batch was late."""
    loop = self.seconds['data'] + self.seconds['step']
    return self.idle_s / max(loop, 1e-9)

  def state(self) -> dict[str, Any]:
    """What a checkpoint keeps."""
    return {
      'wall_s': self.wall_s,
      'seconds': dict(self.seconds),
      'idle_s': self.idle_s,
      'restarts': self.restarts,
    }

  def restore(self, state: dict[str, Any], reached_s: float = 0.0) -> None:
    """Continues the account of the process that wrote the checkpoint.

    Args:
      state: of that process, when it saved.
      reached_s: its `wall_s` when it was last heard of; what lies between
        is lost work.
    """
    lost = max(reached_s - state['wall_s'], 0.0)
    self._before = state['wall_s'] + lost
    self.restarts = state['restarts'] + 1
    for name, seconds in state['seconds'].items():
      self.seconds[name] = self.seconds.get(name, 0.0) + seconds
    # Checkpoints from before it was measured: no more than all of 'data'.
    self.idle_s += state.get('idle_s', state['seconds']['data'])
    self.seconds['restart'] += lost

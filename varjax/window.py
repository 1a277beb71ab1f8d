"""Training metrics between two log lines, fetched one update late.

Reading a metric waits for its update to finish. Reading that of update
N - 1 while update N runs keeps the device busy.
"""

from __future__ import annotations

from typing import Any

import jax


class Window:
  """Sums of scalar metrics since the last log line.

  Attributes:
    last: the newest metrics that have come back, as floats.
    last_step, first_step: the updates that `last` and the window's first
      value belong to.
  """

  def __init__(self) -> None:
    self.last: dict[str, float] = {}
    self.last_step = -1
    self.first_step = -1
    self._sums: dict[str, float] = {}
    self._count = 0
    self._pending: tuple[int, dict[str, jax.Array]] | None = None

  def push(self, step: int, values: dict[str, jax.Array]) -> None:
    """Takes the metrics of `step`, and fetches those of the one before."""
    previous, self._pending = self._pending, (step, values)
    if previous is not None:
      self._fetch(*previous)

  def flush(self) -> None:
    """Fetches what is still on the device."""
    if self._pending is not None:
      self._fetch(*self._pending)
      self._pending = None

  def means(self) -> dict[str, float]:
    """Averages over the window, which starts anew."""
    means = {k: v / self._count for k, v in self._sums.items()}
    self._sums, self._count = {}, 0
    return means

  def state(self) -> dict[str, Any]:
    """What a checkpoint keeps, so that a resumed log has the same lines."""
    return {
      'last': self.last,
      'last_step': self.last_step,
      'first_step': self.first_step,
      'sums': self._sums,
      'count': self._count,
    }

  @classmethod
  def restored(cls, state: dict[str, Any]) -> Window:
    """The window that `state()` described."""
    window = cls()
    window.last = dict(state['last'])
    window.last_step = state['last_step']
    window.first_step = state['first_step']
    window._sums = dict(state['sums'])
    window._count = state['count']
    return window

  def _fetch(self, step: int, values: dict[str, jax.Array]) -> None:
    fetched = {k: float(v) for k, v in jax.device_get(values).items()}
    if not self._count:
      self.first_step = step
    for key, value in fetched.items():
      self._sums[key] = self._sums.get(key, 0.0) + value
    self._count += 1
    self.last, self.last_step = fetched, step

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
    self._values: dict[str, list[float]] = {}  # sum, and how many
    self._pending: tuple[int, dict[str, jax.Array]] | None = None

  def push(self, step: int, values: dict[str, jax.Array]) -> None:
    """Takes the metrics of `step`, and fetches those of the one before."""
    previous, self._pending = self._pending, (step, values)
    if previous is not None:
      self._fetch(*previous)

  def is_running(self) -> bool:
    """Whether the devices are still at the update that came last."""
    _, values = self._pending or (0, {})
    return not all(value.is_ready() for value in values.values())

  def flush(self) -> None:
    """Fetches what is still on the device."""
    if self._pending is not None:
      self._fetch(*self._pending)
      self._pending = None

  def means(self) -> dict[str, float]:
    """Averages over the window, which starts anew.

    Of the updates that had the metric: a stage may bring new ones.
    """
    means = {k: total / count for k, (total, count) in self._values.items()}
    self._values = {}
    return means

  def state(self) -> dict[str, Any]:
    """What a checkpoint keeps, so that a resumed log has the same lines."""
    return {
      'last': self.last,
      'last_step': self.last_step,
      'first_step': self.first_step,
      'values': self._values,
    }

  @classmethod
  def restored(cls, state: dict[str, Any]) -> Window:
    """The window that `state()` described."""
    window = cls()
    window.last = dict(state['last'])
    window.last_step = state['last_step']
    window.first_step = state['first_step']
    window._values = {k: list(v) for k, v in state['values'].items()}
    return window

  def _fetch(self, step: int, values: dict[str, jax.Array]) -> None:
    fetched = {k: float(v) for k, v in jax.device_get(values).items()}
    if not self._values:
      self.first_step = step
    for key, value in fetched.items():
      total, count = self._values.get(key, (0.0, 0))
      self._values[key] = [total + value, count + 1]
    self.last, self.last_step = fetched, step

"""A profile of some steps of a run, for xprof or Perfetto.

Called by the train loop. `clu.periodic_actions` has the same, but imports
TensorFlow.
"""

from __future__ import annotations

import os
import pathlib

import jax

FOLDER = 'profile'


class Profiler:
  """Traces the steps first <= step < last into `workdir`/profile."""

  def __init__(self, workdir: str | os.PathLike[str], first: int, last: int):
    """Nothing is traced when last <= first."""
    self._folder = pathlib.Path(workdir) / FOLDER
    self._first, self._last = first, last
    self._running = False

  def before(self, step: int) -> None:
    """Called before the update that starts at `step`.

    Starts or stops the trace; stopping writes the file. Work that is still
    queued on the device belongs to the trace: block on the last result
    before the call that stops it for an exact picture.
    """
    inside = self._first <= step < self._last
    if inside and not self._running:
      self._folder.mkdir(parents=True, exist_ok=True)
      jax.profiler.start_trace(str(self._folder))
      self._running = True
    elif self._running and not inside:
      self.close()

  def close(self) -> None:
    """Stops a trace that is running."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False

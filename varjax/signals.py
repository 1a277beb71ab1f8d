"""SIGTERM and SIGINT as a flag that the train loop asks between updates."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopSignal:
  """Notes the first stop signal; a second SIGINT interrupts at once."""

  def __init__(self) -> None:
    self.requested = False
    self.name = ''
    self._previous: dict[int, object] = {}

  def __enter__(self) -> StopSignal:
    # Only the main thread may install handlers; elsewhere nothing is caught.
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)  # type: ignore[arg-type]

  def __str__(self) -> str:
    return self.name or 'a signal to another process'

  def _note(self, number: int, _: FrameType | None) -> None:
    if self.requested and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.requested = True
    self.name = signal.Signals(number).name

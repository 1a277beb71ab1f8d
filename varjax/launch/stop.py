"""Stop signals of a launcher, counted while it runs its trials."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import signal
import threading


@dataclasses.dataclass
class Stop:
  """Signals received: the last number, how many, how many were handled."""

  signum: int = 0
  count: int = 0
  handled: int = 0

  @property
  def name(self) -> str:
    """Of the last signal, such as 'SIGTERM'."""
    return signal.Signals(self.signum).name


@contextlib.contextmanager
def signals() -> Iterator[Stop]:
  """Counts stop signals while inside, where Python allows it."""
  stop = Stop()
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

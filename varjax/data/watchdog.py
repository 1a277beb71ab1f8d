"""Takes from an iterator, but does not wait for it for ever.

Between the input pipeline and the train loop. A disk that is mounted over a
network can hang without an error; a run that waits for it in silence holds
its devices until somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import queue
import threading
from typing import Any

from varjax import errors


@dataclasses.dataclass(frozen=True)
class Watchdog:
  """Bounds how long a value may take.

  Attributes:
    timeout_s: longest wait for one value; 0 waits for ever.
    what: the source, for the message.
  """

  timeout_s: float
  what: str

  def take(self, iterator: Iterator[Any]) -> Any:
    """`next(iterator)`.

    Raises:
      Stalled: nothing came in time; the iterator is still busy and must not
        be used again.
      StopIteration: the iterator has ended.
    """
    if not self.timeout_s:
      return next(iterator)
    came: queue.SimpleQueue[tuple[Any, BaseException | None]] = (
      queue.SimpleQueue()
    )

    def fetch() -> None:
      try:
        came.put((next(iterator), None))
      except BaseException as error:  # handed to the caller
        came.put((None, error))

    # A daemon: one that hangs must not keep the process from ending.
    threading.Thread(target=fetch, daemon=True).start()
    try:
      value, error = came.get(timeout=self.timeout_s)
    except queue.Empty:
      raise self.stalled() from None
    if error is not None:
      raise error
    return value

  def stalled(self) -> errors.Stalled:
    """What is raised where nothing came in time."""
    return errors.Stalled(
      f'{self.what}: gave no batch for data_timeout_s={self.timeout_s:g} '
      'seconds; check the disk or mount, or raise data_timeout_s; the same '
      'command resumes'
    )

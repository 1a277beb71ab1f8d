"""Batches on the devices before the update that reads them asks for one.

Between the input pipeline and the train loop or an evaluation. A thread
takes batches, puts them on the mesh and waits until they are there, so that
reading, collating and copying cost the loop nothing while the devices work.
What the loop has not taken does not count: the state to resume from is that
after the last batch it got.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import math
import queue
import threading
import time
from typing import NamedTuple, Protocol

import jax

from varjax import errors, sharding
from varjax.data.elements import NumpyBatch
from varjax.data.watchdog import Watchdog
from varjax.types import Batch

# How often a late batch is looked for; `idle_s` is this much too large.
_LOOK_S = 0.001
# How long an ending run waits for the thread, whether it reads or closes. One
# that hangs is left behind, and does not keep the process from ending.
_JOIN_S = 5.0


class Source(Protocol):
  """An iterator of host batches that can be told to stop reading ahead."""

  def __next__(self) -> NumpyBatch: ...

  def close(self) -> None: ...


class _Arrived(NamedTuple):
  """What the thread hands over: a batch, or why there is none."""

  batch: Batch
  state: str
  error: BaseException | None = None


class Feeder:
  """Takes from a source and keeps the next batches on the mesh.

  Attributes:
    idle_s: seconds of the last `take` in which the devices had nothing to
      do because the batch was late.
  """

  def __init__(
    self,
    source: Source,
    mesh: jax.sharding.Mesh,
    watchdog: Watchdog,
    depth: int,
    state: Callable[[], str] = str,
  ):
    """Starts to read.

    Args:
      source: of this process's rows of each batch; only this feeder may use
        it from now on, and closes it.
      mesh: where the batches go.
      watchdog: bounds how long one may take.
      depth: batches on the devices beside the one that was taken; 0 reads
        and puts each when it is asked for, without a thread; -1 is 2, but
        0 on a CPU, where the thread costs a small run a tenth of its speed
        (benchmarks/prefetch.py).
      state: of the source, to resume from.
    """
    self._source, self._mesh, self._watchdog = source, mesh, watchdog
    self._read_state = state
    self._state = state()
    self._hangs = self._closed = False
    self.idle_s = 0.0
    self._thread: threading.Thread | None = None
    if depth < 0:
      depth = 0 if mesh.devices.flat[0].platform == 'cpu' else 2
    if depth:
      self._free = threading.Semaphore(depth)
      self._arrived: queue.SimpleQueue[_Arrived] = queue.SimpleQueue()
      self._thread = threading.Thread(
        target=self._run, name='feeder', daemon=True
      )
      self._thread.start()

  def get_state(self) -> str:
    """The state of the source after the last batch that was taken."""
    return self._state

  def take(self, is_busy: Callable[[], bool] = lambda: False) -> Batch:
    """The next batch, on the devices.

    Args:
      is_busy: whether the devices still have work; asked while the batch is
        late, to measure `idle_s`.

    Raises:
      StopIteration: the source has ended.
      Stalled: no batch came in time.
      Exception: what the source or the devices raised.
    """
    take = self._take_ahead if self._thread else self._take_now
    try:
      arrived = take(is_busy)
    except errors.Stalled:
      self._hangs = True
      raise
    if arrived.error is not None:
      raise arrived.error
    self._state = arrived.state
    return arrived.batch

  def each(self, is_busy: Callable[[], bool]) -> Iterator[Batch]:
    """Takes until the source has ended."""
    while True:
      try:
        batch = self.take(is_busy)
      except StopIteration:
        return
      yield batch

  def close(self) -> None:
    """Ends the thread and closes the source, as far as they do not hang."""
    if self._closed:
      return
    self._closed = True
    if self._thread is not None:
      self._free.release()
    elif not self._hangs:
      # Apart, since closing waits for reads that may never end.
      self._thread = threading.Thread(
        target=self._source.close, name='feeder', daemon=True
      )
      self._thread.start()
    if self._thread is not None:
      self._thread.join(0.0 if self._hangs else _JOIN_S)

  def _take_now(self, is_busy: Callable[[], bool]) -> _Arrived:
    start = time.monotonic()
    batch = self._put(self._watchdog.take(self._source))
    # Nobody saw when the devices came to their end: all of it may count.
    self.idle_s = 0.0 if is_busy() else time.monotonic() - start
    return _Arrived(batch, self._read_state())

  def _take_ahead(self, is_busy: Callable[[], bool]) -> _Arrived:
    arrived = self._wait(is_busy)
    self._free.release()
    return arrived

  def _wait(self, is_busy: Callable[[], bool]) -> _Arrived:
    self.idle_s = 0.0
    with contextlib.suppress(queue.Empty):
      # One that is there was not late, whatever the devices do.
      return self._arrived.get_nowait()
    start = seen_busy = time.monotonic()
    end = start + (self._watchdog.timeout_s or math.inf)
    busy = is_busy()
    while True:
      left = end - time.monotonic()
      look = min(left, _LOOK_S) if busy else left
      arrived = None
      with contextlib.suppress(queue.Empty):
        arrived = self._arrived.get(
          timeout=None if math.isinf(look) else max(look, 0.0)
        )
      now = time.monotonic()
      busy = busy and is_busy()
      if busy:
        seen_busy = now
      if arrived is not None:
        self.idle_s = 0.0 if busy else now - seen_busy
        return arrived
      if now >= end:
        raise self._watchdog.stalled()

  def _run(self) -> None:
    """The thread: fills what room there is, and closes the source."""
    try:
      while self._free.acquire() and not self._closed:
        # Copied before it is handed over: a batch whose copy is late is late.
        batch = jax.block_until_ready(self._put(next(self._source)))
        self._arrived.put(_Arrived(batch, self._read_state()))
    except BaseException as error:  # handed to the loop, which raises it
      self._arrived.put(_Arrived({}, '', error))
    finally:
      self._source.close()

  def _put(self, batch: NumpyBatch) -> Batch:
    return sharding.shard_batch(batch, self._mesh)

"""Stages that work at the same time, each on what the one before has made.

A stage is an iterator that runs in a thread of its own, so many items ahead
of its reader as there is room for. Items come out in order, and an error
comes where its item would have come: after all before it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Iterator
import threading
import time
from typing import Generic, TypeVar

T = TypeVar('T')


def ahead(
  items: Iterator[T],
  depth: int,
  waited: Callable[[float], None] | None = None,
) -> Generator[T]:
  """Runs an iterator in a thread.

  Closing the generator stops the thread after the item that it is at, and
  closes `items`, where that is a generator.

  Args:
    items: of the stage; only its thread may use it from now on.
    depth: items that wait for their reader, at the most.
    waited: told the seconds that the reader waited for each item.
  """
  handed: _Handover[T] = _Handover(depth)
  thread = threading.Thread(
    target=_run, args=(items, handed), name='stage', daemon=True
  )
  thread.start()
  try:
    while True:
      start = time.monotonic()
      item = handed.take()
      if waited:
        waited(time.monotonic() - start)
      if item is None:
        return
      yield item[0]
  finally:
    handed.close()
    thread.join()


class _Handover(Generic[T]):
  """A queue of bounded length that either side may end."""

  def __init__(self, depth: int):
    self._items: collections.deque[T] = collections.deque()
    self._depth = depth
    self._changed = threading.Condition()
    self._ended = self._closed = False
    self._error: BaseException | None = None

  def put(self, item: T) -> bool:
    """Waits for room; returns whether anybody still reads."""
    with self._changed:
      self._changed.wait_for(
        lambda: self._closed or len(self._items) < self._depth
      )
      if not self._closed:
        self._items.append(item)
        self._changed.notify_all()
      return not self._closed

  def end(self, error: BaseException | None) -> None:
    """Nothing more comes: all is there, or this went wrong."""
    with self._changed:
      self._ended, self._error = True, error
      self._changed.notify_all()

  def take(self) -> tuple[T] | None:
    """The next item; None after the last, or what went wrong is raised."""
    with self._changed:
      self._changed.wait_for(lambda: self._ended or self._items)
      if self._items:
        self._changed.notify_all()
        return (self._items.popleft(),)
      if self._error is not None:
        raise self._error
      return None

  def close(self) -> None:
    """Nobody reads any more."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()


def _run(items: Iterator[T], handed: _Handover[T]) -> None:
  failure = None
  try:
    for item in items:
      if not handed.put(item):
        break
  except BaseException as error:  # Raised where it is read.
    failure = error
  try:
    if isinstance(items, Generator):
      items.close()
  except BaseException as error:
    failure = failure or error
  handed.end(failure)

"""Exact evaluation of a split: means with standard errors over images.

Works for any task: it knows only `eval_fn`, which returns one value (or one
row of values) per image, and totals that are summed.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import time
from typing import Any, Protocol

import jax
import numpy as np

from varjax import sharding
from varjax.data.watchdog import Watchdog
from varjax.feeder import Feeder, Source
from varjax.tasks.base import Task
from varjax.types import EvalOutput, PyTree


class Batches(Protocol):
  """A split that can be read again and again."""

  def __iter__(self) -> Source: ...


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Averages over the images of a split, in float64.

  Attributes:
    mean: by metric, a float or an array [K].
    sem: standard error of the mean over images, same shapes.
    totals: sums over images.
    images: how many images counted.
    data_stall: share of the time in which the devices had nothing to do
      because a batch was late.
  """

  mean: dict[str, np.ndarray]
  sem: dict[str, np.ndarray]
  totals: dict[str, np.ndarray]
  images: int
  data_stall: float


class Evaluator:
  """Runs a task's compiled `eval_fn` over batches and averages.

  Args:
    task: what is evaluated.
    mesh: the devices; batches are split over its batch axes.
    batches: the split; each iteration gives host batches with a 'mask' [b]
      of valid images, every image once.
    watchdog: bounds how long a batch may take.
    depth: batches on the devices ahead of the one that is evaluated.
  """

  def __init__(
    self,
    task: Task,
    mesh: jax.sharding.Mesh,
    batches: Batches,
    watchdog: Watchdog,
    depth: int,
  ):
    self._feed = lambda: Feeder(iter(batches), mesh, watchdog, depth)

    def evaluate(params, state, frozen, batch):
      return task.eval_fn(params, state, frozen, batch), batch['mask']

    # Fully replicated results, so that every process can read them.
    self._eval = jax.jit(evaluate, out_shardings=sharding.replicated(mesh))

  def __call__(
    self, params: PyTree, state: PyTree, frozen: PyTree
  ) -> Evaluation:
    """Evaluates; deterministic for given weights.

    Raises:
      ValueError: the split has no images.
    """
    sums: dict[str, np.ndarray] = {}
    squares: dict[str, np.ndarray] = {}
    totals: dict[str, np.ndarray] = {}
    count = 0.0
    start, idle_s = time.monotonic(), 0.0
    for (output, mask), idle in self._outputs(params, state, frozen):
      idle_s += idle
      count += float(mask.sum())
      for key, value in output.per_image.items():
        value = np.asarray(value, np.float64)
        weight = mask.reshape(mask.shape + (1,) * (value.ndim - 1))
        _add(sums, key, (value * weight).sum(0))
        _add(squares, key, (value**2 * weight).sum(0))
      for key, value in output.totals.items():
        _add(totals, key, np.asarray(value, np.float64))
    if not count:
      raise ValueError('the evaluation split has no images')
    mean = {k: v / count for k, v in sums.items()}
    spread = {
      k: np.maximum(squares[k] / count - mean[k] ** 2, 0.0) for k in mean
    }
    # Unbiased variance over images, then of the mean of `count` of them.
    sem = {k: np.sqrt(v / max(count - 1, 1)) for k, v in spread.items()}
    stall = idle_s / (time.monotonic() - start)
    return Evaluation(mean, sem, totals, round(count), stall)

  def _outputs(
    self, params: PyTree, state: PyTree, frozen: PyTree
  ) -> Iterator[tuple[tuple[EvalOutput, np.ndarray], float]]:
    """What came of each batch, its mask, and the seconds of idling before.

    Fetched one batch late, so that the devices are at the next.
    """
    running: tuple[Any, float] | None = None

    def is_busy() -> bool:
      leaves = jax.tree.leaves(running[0] if running else ())
      return not all(leaf.is_ready() for leaf in leaves)

    with contextlib.closing(self._feed()) as feeder:
      for batch in feeder.each(is_busy):
        before = running
        running = self._eval(params, state, frozen, batch), feeder.idle_s
        if before:
          yield jax.device_get(before[0]), before[1]
    if running:
      yield jax.device_get(running[0]), running[1]


def _add(store: dict[str, np.ndarray], key: str, value: np.ndarray) -> None:
  store[key] = store[key] + value if key in store else np.asarray(value)

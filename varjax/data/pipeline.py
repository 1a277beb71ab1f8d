"""Sources to batches: deterministic, resumable, sharded over hosts (grain).

Each process reads its slice of every batch, so the global batches do not
depend on how many processes there are, and the number of batches taken is
the whole state of an iterator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import json
from typing import Any

import grain
import numpy as np

from varjax import errors
from varjax.data.codes import CodeSource
from varjax.data.elements import (
  EvalCodes,
  EvalImages,
  NumpyBatch,
  Plan,
  TrainCodes,
  TrainImages,
)
from varjax.data.resized import ResizedSource
from varjax.data.sources import Source
from varjax.spec import DataSpec

_IMAGE_THREADS = 16
_CODE_THREADS = 2


class TrainBatches(Iterator[NumpyBatch]):
  """Endless batches of one process; see `train_batches`."""

  def __init__(
    self,
    source: Source,
    data_spec: DataSpec | None,
    plan: Plan,
    prefetch: int,
  ):
    self._source = source
    self._data_spec = data_spec
    self._plan = plan
    self._prefetch = prefetch
    self._taken = 0
    self._iterator: Any = None

  @property
  def batches_taken(self) -> int:
    """Batches that this iterator and those it resumed from have given."""
    return self._taken

  def __next__(self) -> NumpyBatch:
    if self._iterator is None:
      self._iterator = self._open()
    batch = next(self._iterator)
    self._taken += 1
    return batch

  def get_state(self) -> str:
    """What `set_state` needs to give the batch that is next here."""
    return json.dumps({**self._identity(), 'batches': self._taken})

  def set_state(self, state: str) -> None:
    """Continues where `get_state` was called, on any number of processes.

    Raises:
      DataError: the state is of other data, another batch size, seed or
        order.
    """
    try:
      values = json.loads(state)
      taken = int(values['batches'])
    except (ValueError, TypeError, KeyError) as error:
      raise errors.DataError(
        f'data iterator state is not readable ({error}); it must come from '
        'get_state'
      ) from error
    for key, value in self._identity().items():
      if values.get(key) != value:
        raise errors.DataError(
          f'data iterator state has {key} {values.get(key)!r}, but this run '
          f'has {value!r}; resume with the data and batch size it started with'
        )
    self.seek(taken)

  def seek(self, batches: int) -> None:
    """Makes batch number `batches` (from 0) the next one."""
    self.close()
    self._taken = batches

  def close(self) -> None:
    """Stops the threads that read ahead; the next batch starts them again."""
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None

  def _identity(self) -> dict[str, Any]:
    return {
      'fingerprint': self._source.fingerprint,
      'batch_size': self._plan.batch,
      'seed': self._plan.seed,
      'shuffle': self._plan.shuffle,
    }

  def _open(self) -> Any:
    if isinstance(self._source, CodeSource):
      elements = TrainCodes(self._source, self._plan, self._taken)
      return iter(_read_codes(elements, self._prefetch))
    spec = _required(self._data_spec)
    images = TrainImages(self._source, spec, self._plan, self._taken)
    return iter(_read_images(images, self._plan, self._prefetch))


def train_batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  data_spec: DataSpec | None = None,
  start: str | int | None = None,
  process_index: int = 0,
  process_count: int = 1,
  shuffle: bool = True,
  prefetch: int = 2,
) -> TrainBatches:
  """Endless training batches, in another order in every epoch.

  Args:
    source: images, or cached codes (`CodeSource`).
    batch_size: B, images per update over all processes.
    seed: of order and crops.
    data_spec: resolution, resize_ratio and flip; only for images.
    start: a state of `get_state`, or the number of batches already taken.
    process_index, process_count: which slice of each batch to read.
    shuffle: False keeps the order of the source.
    prefetch: batches read ahead by background threads.

  Returns:
    An iterator of {'image': uint8 [b, H, W, 3], 'label': int32 [b]}, or with
    'codes': int32 [b, L, R] for cached codes; b = batch_size / process_count.

  Raises:
    DataError: the source is empty, or `start` is of other data.
    ConfigError: batch_size is not a multiple of process_count.
  """
  plan = _plan(source, batch_size, seed, shuffle, process_index, process_count)
  if not isinstance(source, CodeSource):
    source = ResizedSource(source, _required(data_spec))
  batches = TrainBatches(source, data_spec, plan, prefetch)
  if isinstance(start, str):
    batches.set_state(start)
  elif start is not None:
    batches.seek(start)
  return batches


@dataclasses.dataclass(frozen=True)
class EvalBatches:
  """Every example once; iterate as often as needed. See `eval_batches`."""

  source: Source
  data_spec: DataSpec | None
  plan: Plan
  prefetch: int

  def __len__(self) -> int:
    return self.plan.batches_per_epoch

  def __iter__(self) -> grain.DatasetIterator[NumpyBatch]:
    if isinstance(self.source, CodeSource):
      elements = EvalCodes(self.source, self.plan)
      return iter(_read_codes(elements, self.prefetch))
    images = EvalImages(self.source, _required(self.data_spec), self.plan)
    return iter(_read_images(images, self.plan, self.prefetch))


def eval_batches(
  source: Source,
  batch_size: int,
  *,
  data_spec: DataSpec | None = None,
  process_index: int = 0,
  process_count: int = 1,
  prefetch: int = 2,
) -> EvalBatches:
  """Every example exactly once, in order; the last batch is padded.

  Args:
    source: images, or cached codes (view 0 is read).
    batch_size: B, images per batch over all processes.
    data_spec: resolution and resize_ratio; only for images.
    process_index, process_count: which slice of each batch to read.
    prefetch: batches read ahead by background threads.

  Returns:
    A re-iterable of batches as in `train_batches`, with 'mask' float32 [b]:
    1 for an example, 0 for padding. `len()` is the number of batches, the
    same on every process.

  Raises:
    DataError: the source is empty.
    ConfigError: batch_size is not a multiple of process_count.
  """
  plan = _plan(source, batch_size, 0, False, process_index, process_count)
  if not isinstance(source, CodeSource):
    source = ResizedSource(source, _required(data_spec))
  return EvalBatches(source, data_spec, plan, prefetch)


def _plan(
  source: Source,
  batch_size: int,
  seed: int,
  shuffle: bool,
  process_index: int,
  process_count: int,
) -> Plan:
  if not len(source):
    raise errors.DataError('the dataset has no examples to make batches of')
  if batch_size < 1 or batch_size % process_count:
    raise errors.ConfigError(
      f'batch size {batch_size} cannot be split over {process_count} '
      'processes; it must be a positive multiple of their number'
    )
  return Plan(
    size=len(source),
    batch=batch_size,
    seed=seed,
    shuffle=shuffle,
    process_index=process_index,
    process_count=process_count,
  )


def _required(data_spec: DataSpec | None) -> DataSpec:
  if data_spec is None:
    raise TypeError('batches of images need data_spec, which sets their size')
  return data_spec


def _read_codes(elements: Any, prefetch: int) -> grain.IterDataset:
  options = grain.ReadOptions(
    num_threads=_CODE_THREADS,
    prefetch_buffer_size=max(prefetch, _CODE_THREADS),
  )
  return grain.MapDataset.source(elements).to_iter_dataset(options)


def _read_images(elements: Any, plan: Plan, prefetch: int) -> grain.IterDataset:
  options = grain.ReadOptions(
    num_threads=_IMAGE_THREADS,
    prefetch_buffer_size=max(plan.chunks, _IMAGE_THREADS),
  )
  chunks = grain.MapDataset.source(elements).to_iter_dataset(options)
  batches = chunks.batch(
    plan.chunks, drop_remainder=True, batch_fn=_concatenate
  )
  return grain.experimental.ThreadPrefetchIterDataset(
    batches, prefetch_buffer_size=prefetch
  )


def _concatenate(chunks: Sequence[NumpyBatch]) -> NumpyBatch:
  return {
    key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]
  }

"""What a batch is made of: the pure half of the input pipeline.

Position n of a run is example `permutation(epoch)[n % N]` of epoch n // N,
and batch g holds positions g * B .. g * B + B - 1. A `Plan` says which of
them one process reads; the classes below are what grain reads ahead, each
element a pure function of its number.
"""

from __future__ import annotations

import dataclasses
import functools

import einops
import numpy as np

from varjax.data import preprocess, randomness
from varjax.data.codes import CodeSource
from varjax.data.sources import Source
from varjax.spec import DataSpec

NumpyBatch = dict[str, np.ndarray]

_ENDLESS = 1 << 40
_MAX_CHUNK = 16


@dataclasses.dataclass(frozen=True)
class Plan:
  """Which examples one process puts into which batch."""

  size: int  # examples in the source, N
  batch: int  # global batch, B
  seed: int
  shuffle: bool
  process_index: int
  process_count: int

  @property
  def local(self) -> int:
    """Examples of a batch that this process reads, b."""
    return self.batch // self.process_count

  @property
  def batches_per_epoch(self) -> int:
    """Batches that hold every example once, the last one padded."""
    whole, rest = divmod(self.size, self.batch)
    return whole + (rest > 0)

  @functools.cached_property
  def chunk(self) -> int:
    """Images read as one element: enough to hide what an element costs."""
    sizes = range(1, min(self.local, _MAX_CHUNK) + 1)
    return max(size for size in sizes if self.local % size == 0)

  @property
  def chunks(self) -> int:
    """Chunks of a batch of this process."""
    return self.local // self.chunk

  def positions(self, batch: int) -> np.ndarray:
    """Places in the endless sequence of this process's rows, int64 [b]."""
    first = batch * self.batch + self.process_index * self.local
    return first + np.arange(self.local)

  def chunk_positions(self, element: int, start: int) -> np.ndarray:
    """Positions of one chunk, counted from the first of batch `start`."""
    batch, chunk = divmod(element, self.chunks)
    rows = slice(chunk * self.chunk, (chunk + 1) * self.chunk)
    return self.positions(start + batch)[rows]

  def examples(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Epochs [n] and indices [n] of positions [n]."""
    epochs, places = np.divmod(positions, self.size)
    if not self.shuffle:
      return epochs, places
    indices = np.empty_like(places)
    for epoch in np.unique(epochs).tolist():
      chosen = epochs == epoch
      order = randomness.permutation(self.size, self.seed, epoch)
      indices[chosen] = order[places[chosen]]
    return epochs, indices


@dataclasses.dataclass(frozen=True)
class TrainImages:
  """Random crops; element k is chunk k % n of batch start + k // n."""

  source: Source
  spec: DataSpec
  plan: Plan
  start: int

  def __len__(self) -> int:
    return _ENDLESS

  def __getitem__(self, element: int) -> NumpyBatch:
    positions = self.plan.chunk_positions(element, self.start)
    epochs, indices = self.plan.examples(positions)
    images, labels = [], []
    for epoch, index in zip(epochs.tolist(), indices.tolist(), strict=True):
      example = self.source[index]
      images.append(
        preprocess.train_crop(
          example['image'], self.spec, self.plan.seed, epoch, index
        )
      )
      labels.append(example['label'])
    return {'image': np.stack(images), 'label': np.array(labels, np.int32)}


@dataclasses.dataclass(frozen=True)
class EvalImages:
  """Centre crops, then padding; element k is chunk k % n of batch k // n."""

  source: Source
  spec: DataSpec
  plan: Plan

  def __len__(self) -> int:
    return self.plan.batches_per_epoch * self.plan.chunks

  def __getitem__(self, element: int) -> NumpyBatch:
    positions = self.plan.chunk_positions(element, 0)
    side = self.spec.resolution
    images = np.zeros((len(positions), side, side, 3), np.uint8)
    labels = np.zeros(len(positions), np.int32)
    valid = positions < self.plan.size
    for row in np.flatnonzero(valid).tolist():
      example = self.source[int(positions[row])]
      images[row] = preprocess.center_crop(example['image'], self.spec)
      labels[row] = example['label']
    return {'image': images, 'label': labels, 'mask': valid.astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class TrainCodes:
  """Element k is batch start + k; epoch e reads view e % views."""

  source: CodeSource
  plan: Plan
  start: int

  def __len__(self) -> int:
    return _ENDLESS

  def __getitem__(self, element: int) -> NumpyBatch:
    positions = self.plan.positions(self.start + element)
    epochs, indices = self.plan.examples(positions)
    codes, labels = self.source.read(indices, epochs)
    return {'codes': codes, 'label': labels}


@dataclasses.dataclass(frozen=True)
class EvalCodes:
  """Element k is batch k, the last one padded with zeros."""

  source: CodeSource
  plan: Plan

  def __len__(self) -> int:
    return self.plan.batches_per_epoch

  def __getitem__(self, element: int) -> NumpyBatch:
    positions = self.plan.positions(element)
    valid = positions < self.plan.size
    indices = np.where(valid, positions, 0)
    codes, labels = self.source.read(indices, np.zeros_like(indices))
    codes = codes * einops.rearrange(valid, 'b -> b 1 1')
    return {
      'codes': codes.astype(np.int32),
      'label': np.where(valid, labels, 0).astype(np.int32),
      'mask': valid.astype(np.float32),
    }

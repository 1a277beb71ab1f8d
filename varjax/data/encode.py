"""Writes the code cache: every image through the tokenizer, once.

Killed at any point and started again, it keeps the shards that are whole,
and the finished folder holds the same bytes. Images are read, stacked, given
to the device, fetched as codes and written at the same time, each by threads
of its own.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Generator, Iterator
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from varjax import errors
from varjax.data import manifest as manifests
from varjax.data import preprocess, shards, stages, unfinished
from varjax.data.manifest import Manifest
from varjax.data.sources import SPLITS, Source
from varjax.data.unfinished import Share
from varjax.spec import DataSpec
from varjax.types import CodeSpec

EncodeFn = Callable[[np.ndarray], Any]
_THREADS = 16
# Batches that wait: for the device, on it, and for the disk. Those are codes,
# small enough that the device does not wait while a shard is written.
_LOADED, _QUEUED, _FETCHED = 2, 1, 256


@dataclasses.dataclass(frozen=True)
class _Unit:
  """One batch of one shard: examples first .. first + count - 1."""

  view: int
  first: int
  count: int
  ends_shard: bool


def encode_split(
  encode_fn: EncodeFn,
  source: Source,
  out_dir: str | os.PathLike[str],
  *,
  tokenizer_id: str,
  code_spec: CodeSpec,
  data_spec: DataSpec,
  split: str,
  views: int = 1,
  batch_size: int = 64,
  shard_images: int = 8192,
  seed: int = 0,
  progress: Callable[[int, int], None] | None = None,
  waited: Callable[[float], None] | None = None,
  share: Share = Share(),  # noqa: B008 - frozen
) -> Manifest:
  """Encodes a split into `out_dir`/<split>, or finishes doing so.

  Training views are random crops: view v is the crop that epoch v of a run
  on images with the same seed would see. Validation is the centre crop.

  Args:
    encode_fn: uint8 [B, H, W, 3] to integer codes [B, L, R]; called with
      B = batch_size always, the last batch of a shard is padded with zeros.
      May return before it is done, as jitted functions do. Called by one
      thread, not by the caller's.
    source: the images.
    out_dir: folder of the cache.
    tokenizer_id: content hash of the tokenizer, stored and compared.
    code_spec: what encode_fn emits.
    data_spec: dataset name, resolution, resize_ratio and flip.
    split: 'train' or 'validation'.
    views: random crops of each training image; 1 for validation.
    batch_size: images per call; does not change the codes.
    shard_images: images per shard; a multiple of batch_size wastes nothing.
    seed: of the random crops.
    progress: called with (images done, images in all) after each batch, of
      this process's share.
    waited: called with the seconds for which each batch kept the device's
      thread waiting, by that thread.
    share: of several processes, which all call this on one shared folder.

  Returns:
    The finished manifest.

  Raises:
    DataError: the folder holds other codes or is being written, an image is
      corrupt, or encode_fn emits what code_spec does not allow.
  """
  _check(split, views, batch_size, shard_images, source)
  plan = _plan(
    source, tokenizer_id, code_spec, data_spec, split, views, shard_images, seed
  )
  folder = pathlib.Path(out_dir) / split
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.DataError(
      f'{folder}: cannot be created ({error.strerror}); choose another folder'
    ) from error
  with unfinished.lock(folder, share):
    finished = unfinished.resume(folder, plan)
    suffix = shards.suffix_of(folder, unfinished.noted(folder))
    # Nobody may finish a shard before all agree on which are missing.
    share.barrier('encode_resumed')
    notes = unfinished.notes_of(folder, share)
    manifest = plan.with_shards(tuple(finished))
    manifests.save(manifest, notes)
    missing = unfinished.missing(
      plan, {shard.file for shard in finished}, suffix
    )
    units = _units(plan, batch_size, missing, share)
    done = sum(shard.examples for shard in finished)
    total = done + sum(unit.count for unit in units)
    if progress:
      progress(done, total)
    rows: list[manifests.Row] = []
    with contextlib.closing(
      _encoded(
        encode_fn, source, plan, data_spec, iter(units), batch_size, waited
      )
    ) as encoded:
      for unit, codes, examples in encoded:
        for row, example in zip(codes, examples, strict=True):
          rows.append((row, example['label'], example['id']))
        done += unit.count
        if unit.ends_shard:
          first = unit.first + unit.count - len(rows)
          shard = shards.write(folder, plan, unit.view, first, rows, suffix)
          finished.append(shard)
          manifest = plan.with_shards(tuple(finished))
          manifests.save(manifest, notes)
          rows = []
        if progress:
          progress(done, total)
    if share.count > 1:
      manifest = unfinished.merge(folder, plan, share)
  return manifest


def _check(
  split: str, views: int, batch_size: int, shard_images: int, source: Source
) -> None:
  if split not in SPLITS:
    raise errors.DataError(
      f'split {split!r} is unknown; allowed: {", ".join(SPLITS)}'
    )
  if views < 1 or (split == 'validation' and views != 1):
    raise errors.DataError(
      f'views is {views}; allowed: at least 1, and exactly 1 for validation, '
      'which is the centre crop'
    )
  if batch_size < 1 or shard_images < 1:
    raise errors.DataError(
      f'batch_size is {batch_size} and shard_images is {shard_images}; both '
      'must be at least 1'
    )
  if not len(source):
    raise errors.DataError(f'the {split} split has no images to encode')


def _plan(
  source: Source,
  tokenizer_id: str,
  code_spec: CodeSpec,
  data_spec: DataSpec,
  split: str,
  views: int,
  shard_images: int,
  seed: int,
) -> Manifest:
  random = split == 'train'
  return Manifest(
    schema=manifests.SCHEMA,
    tokenizer_id=tokenizer_id,
    dataset=data_spec.name,
    fingerprint=source.fingerprint,
    split=split,
    resolution=data_spec.resolution,
    resize_ratio=float(data_spec.resize_ratio),
    flip=random and data_spec.flip,
    seed=seed if random else 0,
    views=views,
    grids=tuple((int(h), int(w)) for h, w in code_spec.grids),
    vocab=code_spec.vocab,
    code_dim=code_spec.code_dim,
    codes_per_position=code_spec.codes_per_position,
    dtype='<u2' if code_spec.vocab <= 1 << 16 else '<u4',
    examples=len(source),
    num_classes=source.num_classes,
    class_names=tuple(source.class_names),
    shard_images=shard_images,
  )


def _units(
  plan: Manifest,
  batch_size: int,
  missing: list[tuple[int, int]],
  share: Share,
) -> list[_Unit]:
  """The batches of every `share.count`-th shard that is missing."""
  units = []
  for view, start in missing[share.index :: share.count]:
    stop = min(start + plan.shard_images, plan.examples)
    for first in range(start, stop, batch_size):
      count = min(batch_size, stop - first)
      units.append(_Unit(view, first, count, first + count == stop))
  return units


def _encoded(
  encode_fn: EncodeFn,
  source: Source,
  plan: Manifest,
  data_spec: DataSpec,
  units: Iterator[_Unit],
  batch_size: int,
  waited: Callable[[float], None] | None,
) -> Generator[tuple[_Unit, np.ndarray, list[dict[str, Any]]]]:
  """Codes of unit after unit, from stages that do not wait for each other."""

  def stack() -> Generator[tuple[_Unit, np.ndarray, list[dict[str, Any]]]]:
    for unit, examples in _loaded(source, plan, data_spec, units):
      images = np.stack([example['image'] for example in examples])
      padding = batch_size - unit.count
      images = np.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0)))
      for example in examples:
        del example['image']
      yield unit, images, examples

  def start() -> Generator[tuple[_Unit, Any, list[dict[str, Any]]]]:
    with contextlib.closing(stages.ahead(stack(), _LOADED, waited)) as batches:
      for unit, images, examples in batches:
        yield unit, encode_fn(images), examples

  def fetch() -> Generator[tuple[_Unit, np.ndarray, list[dict[str, Any]]]]:
    with contextlib.closing(stages.ahead(start(), _QUEUED)) as outputs:
      for unit, output, examples in outputs:
        yield unit, _checked_codes(output, plan, unit), examples

  return stages.ahead(fetch(), _FETCHED)


def _loaded(
  source: Source, plan: Manifest, data_spec: DataSpec, units: Iterator[_Unit]
) -> Iterator[tuple[_Unit, list[dict[str, Any]]]]:
  """Cropped examples of each unit, loaded by threads two units ahead."""

  def load(view: int, index: int) -> dict[str, Any]:
    example = source[index]
    if plan.split == 'train':
      crop = preprocess.train_crop(
        example['image'], data_spec, plan.seed, view, index
      )
    else:
      crop = preprocess.center_crop(example['image'], data_spec)
    return {**example, 'image': crop}

  waiting: collections.deque[tuple[_Unit, list[Any]]] = collections.deque()
  pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
  try:
    for unit in units:
      indices = range(unit.first, unit.first + unit.count)
      futures = [pool.submit(load, unit.view, index) for index in indices]
      waiting.append((unit, futures))
      if len(waiting) > 2:
        ready, futures = waiting.popleft()
        yield ready, [future.result() for future in futures]
    while waiting:
      ready, futures = waiting.popleft()
      yield ready, [future.result() for future in futures]
  finally:
    pool.shutdown(cancel_futures=True)


def _checked_codes(output: Any, plan: Manifest, unit: _Unit) -> np.ndarray:
  codes = np.asarray(output)
  shape = (plan.code_spec.positions, plan.codes_per_position)
  if codes.shape[1:] != shape or codes.shape[0] < unit.count:
    raise errors.DataError(
      f'the tokenizer emitted codes of shape {codes.shape}; its code spec '
      f'says (batch, {shape[0]}, {shape[1]})'
    )
  codes = codes[: unit.count]
  if not np.issubdtype(codes.dtype, np.integer):
    raise errors.DataError(
      f'the tokenizer emitted {codes.dtype} values; codes are integers'
    )
  if codes.min() < 0 or codes.max() >= plan.vocab:
    raise errors.DataError(
      f'the tokenizer emitted codes from {codes.min()} to {codes.max()}; '
      f'allowed: 0 to {plan.vocab - 1}'
    )
  return codes

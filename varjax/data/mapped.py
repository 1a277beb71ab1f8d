"""Shards as NumPy arrays that are mapped into memory: what is written now.

A shard is one .npy file with a record for each example: label (int32),
codes (uint16 or uint32, [L * R]) and the id in UTF-8, as wide as the longest
of the shard. Reading is a copy out of the page cache; the file holds numbers
and bytes alone, and no object is ever loaded from it.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import pathlib

import numpy as np

from varjax.data.manifest import Manifest, Row

_ATTEMPTS = 100


def write(path: pathlib.Path, manifest: Manifest, rows: Sequence[Row]) -> None:
  """Writes the records of a shard."""
  names = [name.encode() for _, _, name in rows]
  width = max(1, *map(len, names))
  records = np.zeros(len(rows), _record_type(manifest, width))
  records['label'] = [label for _, label, _ in rows]
  records['codes'] = np.stack([codes.reshape(-1) for codes, _, _ in rows])
  records['id'] = names
  with path.open('wb') as stream:
    np.save(stream, records, allow_pickle=False)


class MappedShard:
  """Random access to the records of one file, which it maps.

  Threads may read it at the same time, and so may a process that was
  forked: the map is read-only and has no position.
  """

  def __init__(self, path: pathlib.Path, manifest: Manifest):
    try:
      records = _map(path)
    except Exception as error:  # A damaged header may be any Python text.
      raise ValueError(str(error)) from error
    if not isinstance(records, np.memmap) or records.ndim != 1:
      raise ValueError('not one row of records')
    width = records.dtype.itemsize - _record_type(manifest, 0).itemsize
    expected = _record_type(manifest, max(width, 1))
    if records.dtype != expected:
      raise ValueError(f'records of {records.dtype}, not of {expected}')
    if records.offset + records.nbytes != path.stat().st_size:
      raise ValueError('bytes after the last record')
    # A plain view: subclasses cost more than the copies of small batches.
    self._records = records.view(np.ndarray)

  def __len__(self) -> int:
    return len(self._records)

  def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See `shards.Records`."""
    # Whole records: one copy each, without the interpreter's lock, so that
    # a page that must come from the disk holds up no other thread.
    records = self._records.take(rows)
    return records['codes'], records['label']

  def name(self, row: int) -> str:
    """See `shards.Records`."""
    return self._records['id'][row].decode()


def _map(path: pathlib.Path) -> np.ndarray:
  # NumPy reads headers with `ast`, which up to Python 3.12 may fail when two
  # threads use it at once (github.com/python/cpython/issues/106905).
  for _ in range(_ATTEMPTS - 1):
    with contextlib.suppress(SystemError):
      return np.load(path, mmap_mode='r', allow_pickle=False)
  return np.load(path, mmap_mode='r', allow_pickle=False)


def _record_type(manifest: Manifest, width: int) -> np.dtype:
  """Label, codes [L * R], and an id of at most `width` bytes."""
  codes = ('codes', manifest.dtype, (manifest.codes_per_image,))
  return np.dtype([('label', '<i4'), codes, ('id', f'S{width}')])

"""The two containers that `torch.save` writes, opened without torch.

Since 1.6 a zip archive of uncompressed records: `NAME/data.pkl` describes
the objects, `NAME/data/KEY` holds the numbers of a storage. Before, four
pickles, a list of keys, and the storages one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import mmap
import os
import struct
from typing import Any, Protocol
import zipfile

import numpy as np

from varjax import errors
from varjax.interop import unpickle

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


class Opened(Protocol):
  """An opened file: `tree` with `unpickle.Tensor` leaves, and their data."""

  tree: Any

  def read(self, storage: unpickle.Storage) -> np.ndarray:
    """The numbers of a storage, [count]; bfloat16 as uint16."""
    ...


@contextlib.contextmanager
def open_zip(path: str) -> Iterator[Opened]:
  """Opens a zip written by `torch.save`.

  Raises:
    CheckpointError: not such a file, truncated, or not a state dict.
  """
  try:
    archive = zipfile.ZipFile(path)
  # A RuntimeError is a version or a compression that zipfile does not know.
  except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as error:
    raise errors.CheckpointError(
      f'{path}: truncated or not a zip archive ({error})'
    ) from error
  with archive:
    yield _Zip(archive, path)


@contextlib.contextmanager
def open_legacy(path: str) -> Iterator[Opened]:
  """Opens a file written by `torch.save` before 1.6.

  Raises:
    CheckpointError: not such a file, truncated, or not a state dict.
  """
  with (
    open(path, 'rb') as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
  ):
    yield _Legacy(data, path)


class _Zip:
  """See `open_zip`."""

  def __init__(self, archive: zipfile.ZipFile, path: str):
    self._archive, self._path = archive, path
    self._records = self._check_records()
    mains = [
      name
      for name in self._records
      if name.count('/') <= 1 and name.rpartition('/')[2] == 'data.pkl'
    ]
    if len(mains) != 1:
      raise errors.CheckpointError(
        f'{path}: a zip archive with {len(mains)} data.pkl; torch.save '
        'writes one'
      )
    self._prefix = mains[0].removesuffix('data.pkl')
    order = b'little'
    if f'{self._prefix}byteorder' in self._records:
      order = self._bytes(f'{self._prefix}byteorder')
    self._order = _order(order == b'big')
    self.tree, _ = unpickle.loads(self._bytes(mains[0]), path)

  def read(self, storage: unpickle.Storage) -> np.ndarray:
    name = f'{self._prefix}data/{storage.key}'
    found = self._records.get(name)
    if found is None or found.file_size != storage.nbytes:
      size = 'is missing' if found is None else f'has {found.file_size}'
      raise errors.CheckpointError(
        f'{self._path}: record {name} must have {storage.nbytes} bytes, '
        f'it {size}'
      )
    return _numbers(self._bytes(name), storage, self._order)

  def _check_records(self) -> dict[str, zipfile.ZipInfo]:
    infos = self._archive.infolist()
    records = {info.filename: info for info in infos}
    if len(records) != len(infos):
      raise errors.CheckpointError(
        f'{self._path}: two records of the archive have the same name'
      )
    for info in infos:
      if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise errors.CheckpointError(
          f'{self._path}: record {info.filename[:80]!r} is compressed or '
          'encrypted; torch.save does neither'
        )
    declared = sum(info.file_size for info in infos)
    present = os.path.getsize(self._path)
    if declared > present:
      raise errors.CheckpointError(
        f'{self._path}: its records declare {declared} bytes, the file has '
        f'{present}'
      )
    return records

  def _bytes(self, name: str) -> bytes:
    try:
      return self._archive.read(name)
    except (
      zipfile.BadZipFile,
      EOFError,
      OSError,
      RuntimeError,  # encrypted; an unknown compression is a subclass
      ValueError,
      struct.error,
    ) as error:
      raise errors.CheckpointError(
        f'{self._path}: record {name} is truncated or corrupt ({error})'
      ) from error


class _Legacy:
  """See `open_legacy`."""

  def __init__(self, data: mmap.mmap, path: str):
    self._data, self._path, self._position = data, path, 0
    if self._pickle() != _MAGIC or self._pickle() != _PROTOCOL:
      raise errors.CheckpointError(
        f'{path}: neither a zip archive nor the older format of torch.save'
      )
    system = self._pickle()
    little = not isinstance(system, dict) or system.get('little_endian', True)
    self._order = _order(not little)
    self.tree = self._pickle()
    keys = self._pickle()
    if not isinstance(keys, list) or not all(type(k) is str for k in keys):
      raise errors.CheckpointError(f'{path}: has no list of storages')
    # Lengths are in items, and their size stands in the first pickle only.
    self._keys = {key: index for index, key in enumerate(keys)}
    self._ends = {-1: self._position}
    self._widths = {s.key: s.item_bytes for s in _storages(self.tree)}
    for index, key in enumerate(keys):
      self._ends[index] = self._skip(index, key)

  def read(self, storage: unpickle.Storage) -> np.ndarray:
    index = self._keys.get(storage.key)
    if index is None:
      raise errors.CheckpointError(
        f'{self._path}: storage {storage.key} is missing'
      )
    start, end = self._ends[index - 1] + 8, self._ends[index]
    if end - start != storage.nbytes:
      raise errors.CheckpointError(
        f'{self._path}: storage {storage.key} must have {storage.nbytes} '
        f'bytes, it has {end - start}'
      )
    return _numbers(self._data[start:end], storage, self._order)

  def _pickle(self) -> Any:
    start = self._position
    chunk = self._data[start : start + unpickle.MAX_PICKLE_BYTES]
    value, length = unpickle.loads(chunk, self._path)
    self._position += length
    return value

  def _skip(self, index: int, key: str) -> int:
    """Where the storage ends, checked against the size of the file."""
    start = self._ends[index - 1] + 8
    count = int.from_bytes(
      self._data[start - 8 : start],
      'big' if self._order == '>' else 'little',
      signed=True,
    )
    end = start + count * self._widths.get(key, 1)
    if count < 0 or end > len(self._data):
      raise errors.CheckpointError(
        f'{self._path}: storage {key} declares {count} items, but the file '
        f'ends {max(len(self._data) - start, 0)} bytes later; is it truncated?'
      )
    return end


def _storages(tree: Any) -> Iterator[unpickle.Storage]:
  """Every storage of nested containers, each container once."""
  todo, seen = [tree], set()
  while todo:
    node = todo.pop()
    if isinstance(node, unpickle.Tensor):
      yield node.storage
    elif isinstance(node, unpickle.Storage):
      yield node
    elif isinstance(node, dict | list | tuple) and id(node) not in seen:
      seen.add(id(node))
      todo += node.values() if isinstance(node, dict) else node


def _order(big: bool) -> str:
  return '>' if big else '<'


def _numbers(data: bytes, storage: unpickle.Storage, order: str) -> np.ndarray:
  kind = 'u2' if storage.kind == unpickle.BFLOAT16 else storage.kind
  return np.frombuffer(data, np.dtype(f'{order}{kind}'), storage.count)

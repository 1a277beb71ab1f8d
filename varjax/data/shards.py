"""One shard of cached codes: an array_record file of fixed-size records.

A record is label (int32), codes (uint16 or uint32) and the example's id in
UTF-8, all little-endian: numbers and text, nothing that could be executed.
Records are stored one by one and uncompressed. Codes are nearly
incompressible, and reading them at random is five times as fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import hashlib
import os
import pathlib

from array_record.python import array_record_module
import einops
import numpy as np

from varjax import errors
from varjax.data.manifest import Manifest, Shard

_WRITE_OPTIONS = 'group_size:1,uncompressed'
_READ_OPTIONS = 'readahead_buffer_size:0'


def record_type(manifest: Manifest) -> np.dtype:
  """The fixed part of a record: label and codes [L * R]."""
  count = manifest.code_spec.positions * manifest.codes_per_position
  return np.dtype([('label', '<i4'), ('codes', manifest.dtype, (count,))])


def file_name(manifest: Manifest, view: int, first: int) -> str:
  """Name of the shard of a view that starts at example `first`."""
  number = first // manifest.shard_images
  count = manifest.shards_per_view
  return f'view{view}-{number:05d}-of-{count:05d}.array_record'


def write(
  folder: pathlib.Path,
  manifest: Manifest,
  view: int,
  first: int,
  rows: Iterable[tuple[np.ndarray, int, str]],
) -> Shard:
  """Writes a shard under another name and renames it when it is whole.

  Args:
    folder: of the split.
    manifest: layout of the records.
    view, first: which shard.
    rows: (codes [L, R], label, id) of its examples in order.

  Returns:
    The finished shard with its checksum.
  """
  path = folder / file_name(manifest, view, first)
  partial = path.with_name(path.name + '.partial')
  partial.unlink(missing_ok=True)
  kind = record_type(manifest)
  count = 0
  writer = array_record_module.ArrayRecordWriter(str(partial), _WRITE_OPTIONS)
  try:
    for codes, label, name in rows:
      record = np.zeros((), kind)
      record['label'] = label
      record['codes'] = codes.reshape(-1)
      writer.write(record.tobytes() + name.encode())
      count += 1
  finally:
    writer.close()
  shard = Shard(
    file=path.name,
    view=view,
    first=first,
    examples=count,
    bytes=partial.stat().st_size,
    sha256=checksum(partial),
  )
  # The name must not reach the disk before the content does.
  descriptor = os.open(partial, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
  partial.replace(path)
  return shard


def checksum(path: pathlib.Path) -> str:
  """sha256 of a file, in hex."""
  with path.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()


class ShardReader:
  """Random access to the records of one shard; opens the file once."""

  def __init__(self, path: pathlib.Path, manifest: Manifest):
    self._path = path
    self._kind = record_type(manifest)
    self._codes_per_position = manifest.codes_per_position
    try:
      self._reader = array_record_module.ArrayRecordReader(
        str(path), _READ_OPTIONS
      )
    except (OSError, ValueError, RuntimeError) as error:
      raise self._broken(error) from error

  def read(
    self, rows: Sequence[int]
  ) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Reads records by their position in the shard.

    Returns:
      codes int32 [n, L, R], labels int32 [n] and the n ids.

    Raises:
      DataError: the file is corrupt.
    """
    size = self._kind.itemsize
    try:
      records = self._reader.read(rows)
      fixed = np.frombuffer(
        b''.join([record[:size] for record in records]), self._kind
      )
      names = [record[size:].decode() for record in records]
    except (OSError, ValueError, RuntimeError, IndexError) as error:
      raise self._broken(error) from error
    codes = einops.rearrange(
      fixed['codes'].astype(np.int32),
      'n (l r) -> n l r',
      r=self._codes_per_position,
    )
    return codes, fixed['label'].astype(np.int32), names

  def _broken(self, error: Exception) -> errors.DataError:
    reason = str(error).partition('\n')[0][:120]
    return errors.DataError(
      f'{self._path}: cannot be read ({reason}); run `varjax encode` again '
      'with the same settings to rewrite this shard'
    )

"""Shards as array_record files: what caches were before 2026-11-24.

They stay readable, and a cache that was begun so is finished so, because
the hash of its files is in the ids of the runs that read it. A record is
label (int32), codes (uint16 or uint32) and the example's id in UTF-8, all
little-endian, stored one by one and uncompressed.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

from array_record.python import array_record_module
import numpy as np

from varjax.data.manifest import Manifest, Row

_WRITE_OPTIONS = 'group_size:1,uncompressed'
_READ_OPTIONS = 'readahead_buffer_size:0'
# What the library raises where a file is damaged or gone.
_FAULTS = (OSError, ValueError, RuntimeError, IndexError)


def write(path: pathlib.Path, manifest: Manifest, rows: Sequence[Row]) -> None:
  """Writes the records of a shard."""
  kind = _record_type(manifest)
  writer = array_record_module.ArrayRecordWriter(str(path), _WRITE_OPTIONS)
  try:
    for codes, label, name in rows:
      record = np.zeros((), kind)
      record['label'] = label
      record['codes'] = codes.reshape(-1)
      writer.write(record.tobytes() + name.encode())
  finally:
    writer.close()


class RecordedShard:
  """Random access to the records of one file, which it keeps open."""

  def __init__(self, path: pathlib.Path, manifest: Manifest):
    self._kind = _record_type(manifest)
    try:
      self._reader = array_record_module.ArrayRecordReader(
        str(path), _READ_OPTIONS
      )
    except _FAULTS as error:
      raise ValueError(str(error)) from error

  def __len__(self) -> int:
    return self._reader.num_records()

  def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See `shards.Records`."""
    size = self._kind.itemsize
    fixed = np.frombuffer(
      b''.join([record[:size] for record in self._records(rows.tolist())]),
      self._kind,
    )
    return fixed['codes'], fixed['label']

  def name(self, row: int) -> str:
    """See `shards.Records`."""
    return self._records([row])[0][self._kind.itemsize :].decode()

  def _records(self, rows: list[int]) -> list[bytes]:
    try:
      return self._reader.read(rows)
    except _FAULTS as error:
      raise ValueError(str(error)) from error


def _record_type(manifest: Manifest) -> np.dtype:
  """The fixed part of a record: label and codes [L * R]."""
  count = manifest.codes_per_image
  return np.dtype([('label', '<i4'), ('codes', manifest.dtype, (count,))])

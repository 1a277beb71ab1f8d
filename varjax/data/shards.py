"""Shards of cached codes: files that appear whole, in one of two formats.

`mapped` is what is written, `recorded` what older caches hold. The suffix
of the files says which; all shards of a split have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import os
import pathlib
from typing import Protocol

import einops
import numpy as np

from varjax import errors
from varjax.data import manifest as manifests
from varjax.data import mapped, recorded
from varjax.data.manifest import Manifest, Row


class Records(Protocol):
  """An open file of records.

  Opening and reading raise ValueError where the file is not what the
  manifest says.
  """

  def __len__(self) -> int: ...

  def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [n, L * R] and labels [n] of the records [n], as stored."""
    ...

  def name(self, row: int) -> str:
    """The id of the example of one record."""
    ...


@dataclasses.dataclass(frozen=True)
class Format:
  """How records lie in a file.

  Attributes:
    write: a new file with all rows of a shard.
    open: a file for reading.
  """

  write: Callable[[pathlib.Path, Manifest, Sequence[Row]], None]
  open: Callable[[pathlib.Path, Manifest], Records]


FORMATS: dict[str, Format] = {
  '.npy': Format(mapped.write, mapped.MappedShard),
  '.array_record': Format(recorded.write, recorded.RecordedShard),
}
# Of a cache that is begun now.
SUFFIX = '.npy'


def suffix_of(folder: pathlib.Path, noted: Sequence[manifests.Shard]) -> str:
  """The format in which an encode into a folder goes on.

  That of the shards which were noted, even if they are lost, or of those
  that lie there: a mended or finished cache has the ids that it had.
  """
  names = [shard.file for shard in noted]
  names += [path.name for path in sorted(folder.glob('view*'))]
  found = [pathlib.PurePath(name).suffix for name in names]
  return next((suffix for suffix in found if suffix in FORMATS), SUFFIX)


def file_name(manifest: Manifest, view: int, first: int, suffix: str) -> str:
  """Name of the shard of a view that starts at example `first`."""
  number = first // manifest.shard_images
  count = manifest.shards_per_view
  return f'view{view}-{number:05d}-of-{count:05d}{suffix}'


def write(
  folder: pathlib.Path,
  manifest: Manifest,
  view: int,
  first: int,
  rows: Sequence[Row],
  suffix: str,
) -> manifests.Shard:
  """Writes a shard under another name and renames it when it is whole.

  Args:
    folder: of the split.
    manifest: layout of the records.
    view, first: which shard.
    rows: its examples in order.
    suffix: of the format, key of `FORMATS`.

  Returns:
    The finished shard with its checksum.
  """
  path = folder / file_name(manifest, view, first, suffix)
  partial = path.with_name(path.name + '.partial')
  partial.unlink(missing_ok=True)
  FORMATS[suffix].write(partial, manifest, rows)
  shard = manifests.Shard(
    file=path.name,
    view=view,
    first=first,
    examples=len(rows),
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
  """Random access to the records of one shard of either format."""

  def __init__(
    self, path: pathlib.Path, manifest: Manifest, shard: manifests.Shard
  ):
    """Opens the file.

    Raises:
      DataError: it is gone, or is not what the manifest says.
    """
    self._path, self._manifest = path, manifest
    try:
      if path.suffix not in FORMATS:
        raise ValueError(f'not one of {", ".join(FORMATS)}')
      self._records = FORMATS[path.suffix].open(path, manifest)
      found = len(self._records)
      if found != shard.examples:
        raise ValueError(f'{found} records instead of {shard.examples}')
    except ValueError as error:
      raise self._broken(error) from error

  def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads records by their position in the shard.

    Returns:
      codes [n, L, R] and labels [n], of the types that are stored.

    Raises:
      DataError: the file is corrupt.
    """
    try:
      codes, labels = self._records.read(rows)
      # What a damaged page holds would index beyond the codebook.
      highest = int(codes.max(initial=0))
      if highest >= self._manifest.vocab:
        raise ValueError(f'it holds code {highest}')
    except ValueError as error:
      raise self._broken(error) from error
    per_position = self._manifest.codes_per_position
    return einops.rearrange(codes, 'n (l r) -> n l r', r=per_position), labels

  def name(self, row: int) -> str:
    """The id of the example of one record.

    Raises:
      DataError: the file is corrupt.
    """
    try:
      return self._records.name(row)
    except ValueError as error:
      raise self._broken(error) from error

  def _broken(self, error: Exception) -> errors.DataError:
    reason = str(error).partition('\n')[0][:120]
    return errors.DataError(
      f'{self._path}: cannot be read ({reason}); run `varjax encode` again '
      'with the same settings to rewrite this shard'
    )

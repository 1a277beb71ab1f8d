"""Cached codes as a source: what the transformer trains on.

Upstream encodes every image again in every epoch; here `encode.encode_split`
has done it once. A folder is checked when it is opened, and nothing is read
from one that is incomplete, damaged or of another tokenizer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import numpy as np

from varjax import errors
from varjax.data import manifest as manifests
from varjax.data import shards
from varjax.data.manifest import Manifest, Shard
from varjax.types import CodeSpec

# Shards whose checksum was found right, with the size and times they had.
_VERIFIED = '.verified.json'
# Open shards of a source. Each is a file descriptor and a map, of which a
# process may have about a thousand; one view of ImageNet has 157 shards.
_OPEN = 256
# What a shard was when its checksum was right: sha256, bytes, times.
Stamp = list[Any]


class CodeSource:
  """The codes of one split; see `sources.Source`.

  Picklable; files are opened where they are first read, at most `_OPEN` at
  a time, and may be read from several threads.

  Attributes:
    folder: of the split.
    manifest: what it holds.
  """

  def __init__(
    self, folder: pathlib.Path, manifest: Manifest, stamps: dict[str, Stamp]
  ):
    self.folder = folder
    self.manifest = manifest
    self._stamps = stamps
    # No method of its own: in a cycle, maps would wait for the collector.
    self._readers = functools.lru_cache(_OPEN)(
      functools.partial(_open_shard, folder, manifest, stamps)
    )

  @property
  def code_spec(self) -> CodeSpec:
    """What the tokenizer emitted."""
    return self.manifest.code_spec

  @property
  def num_classes(self) -> int:
    """Labels are below this."""
    return self.manifest.num_classes

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the labels."""
    return self.manifest.class_names

  @property
  def fingerprint(self) -> str:
    """The content hash of codes and manifest (`codes_id`)."""
    return self.manifest.codes_id

  @property
  def views(self) -> int:
    """Differently cropped codes of each image; epoch e reads e % views."""
    return self.manifest.views

  def __len__(self) -> int:
    return self.manifest.examples

  def __getitem__(self, index: int) -> dict[str, Any]:
    """{'codes': int32 [L, R], 'label': int, 'id': str} of view 0."""
    if not 0 <= index < len(self):
      raise IndexError(index)
    number, row = divmod(index, self.manifest.shard_images)
    reader = self._readers(number)
    codes, labels = reader.read(np.array([row]))
    return {
      'codes': codes[0].astype(np.int32),
      'label': int(labels[0]),
      'id': reader.name(row),
    }

  def read(
    self, indices: np.ndarray, epochs: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Reads many examples at once.

    Args:
      indices: int [n] examples.
      epochs: int [n] epoch of each, which chooses the view.

    Returns:
      codes int32 [n, L, R] and labels int32 [n].

    Raises:
      DataError: a shard is corrupt.
    """
    spec = self.code_spec
    shape = (len(indices), spec.positions, spec.codes_per_position)
    codes = np.empty(shape, np.int32)
    labels = np.empty(len(indices), np.int32)
    numbers, rows = np.divmod(indices, self.manifest.shard_images)
    shard = (epochs % self.views) * self.manifest.shards_per_view + numbers
    order = np.argsort(shard, kind='stable')
    cuts = np.flatnonzero(np.diff(shard[order])) + 1
    for places in np.split(order, cuts):
      if len(places):
        reader = self._readers(int(shard[places[0]]))
        codes[places], labels[places] = reader.read(rows[places])
    return codes, labels

  def __reduce__(self) -> tuple[Any, ...]:
    return CodeSource, (self.folder, self.manifest, self._stamps)


def open_codes(
  directory: str | os.PathLike[str],
  split: str,
  *,
  tokenizer_id: str | None = None,
) -> CodeSource:
  """Opens and checks the cached codes of one split.

  Every shard is compared with its checksum. A shard that passed is not
  hashed again while its size and times stay the same.

  Args:
    directory: what was given to `encode_split` as out_dir.
    split: 'train' or 'validation'.
    tokenizer_id: the tokenizer that must have made the codes; None accepts
      any.

  Raises:
    DataError: missing, incomplete or corrupt codes, or another tokenizer's.
  """
  folder = pathlib.Path(directory) / split
  manifest = manifests.load(folder)
  path = folder / manifests.FILE
  if tokenizer_id is not None and manifest.tokenizer_id != tokenizer_id:
    raise errors.DataError(
      f'{path}: codes of tokenizer {manifest.tokenizer_id}, but tokenizer '
      f'{tokenizer_id} was asked for; run `varjax encode` with that tokenizer '
      'into another folder'
    )
  if not manifest.codes_id:
    total = manifest.views * manifest.shards_per_view
    raise errors.DataError(
      f'{path}: incomplete, {len(manifest.shards)} of {total} shards are '
      'written; run `varjax encode` again with the same settings to finish it'
    )
  found = verify(folder, manifest)
  if found.broken:
    name, reason = next(iter(found.broken.items()))
    raise _damaged(folder / name, reason)
  return CodeSource(folder, manifest, found.stamps)


@dataclasses.dataclass(frozen=True)
class Verified:
  """What a check of shards found, by file name.

  Attributes:
    stamps: of those that are whole.
    broken: what is wrong with the others.
  """

  stamps: dict[str, Stamp]
  broken: dict[str, str]


def verify(folder: pathlib.Path, manifest: Manifest) -> Verified:
  """Checks the shards that a manifest lists."""
  known = _read_verified(folder)
  found = Verified({}, {})
  for shard in manifest.shards:
    path = folder / shard.file
    stamp, reason = _check(path, shard, known.get(shard.file))
    if reason:
      found.broken[shard.file] = reason
    else:
      found.stamps[shard.file] = stamp
  if found.stamps != known:
    # A read-only folder is fine: it is hashed again next time.
    with contextlib.suppress(OSError):
      partial = folder / f'{_VERIFIED}.{os.getpid()}.partial'
      partial.write_text(json.dumps(found.stamps))
      partial.replace(folder / _VERIFIED)
  return found


def _open_shard(
  folder: pathlib.Path,
  manifest: Manifest,
  stamps: dict[str, Stamp],
  number: int,
) -> shards.ShardReader:
  """Opens a shard by its number, counted through all views."""
  shard = manifest.shards[number]
  path = folder / shard.file
  # It may have changed since the whole cache was verified.
  _, reason = _check(path, shard, stamps.get(shard.file))
  if reason:
    raise _damaged(path, reason)
  return shards.ShardReader(path, manifest, shard)


def _check(
  path: pathlib.Path, shard: Shard, known: Stamp | None
) -> tuple[Stamp, str]:
  """What a file is now, and what is wrong with it, '' where nothing is.

  Args:
    path: of the file.
    shard: what it should be.
    known: its stamp when its checksum was right, if it ever was.
  """
  if not path.is_file():
    return [], 'the shard is missing'
  stat = path.stat()
  if stat.st_size != shard.bytes:
    return [], f'the shard has {stat.st_size} bytes instead of {shard.bytes}'
  # ctime as well: it changes even where a tool restores mtime.
  stamp = [shard.sha256, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
  if stamp != known and shards.checksum(path) != shard.sha256:
    return [], 'the checksum of the shard does not match'
  return stamp, ''


def _damaged(path: pathlib.Path, reason: str) -> errors.DataError:
  return errors.DataError(
    f'{path}: {reason}; run `varjax encode` again with the same settings to '
    'rewrite it'
  )


def _read_verified(folder: pathlib.Path) -> dict[str, Stamp]:
  try:
    known = json.loads((folder / _VERIFIED).read_text())
  except (OSError, ValueError):
    return {}  # Only a shortcut: without it every shard is hashed.
  return known if isinstance(known, dict) else {}

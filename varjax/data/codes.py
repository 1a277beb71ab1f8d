"""Cached codes as a source: what the transformer trains on.

Upstream encodes every image again in every epoch; here `encode.encode_split`
has done it once. A folder is checked when it is opened, and nothing is read
from one that is incomplete, damaged or of another tokenizer.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from varjax import errors
from varjax.data import manifest as manifests
from varjax.data import shards
from varjax.data.manifest import Manifest
from varjax.types import CodeSpec

# Shards whose checksum was found right, with the size and times they had.
_VERIFIED = '.verified.json'


class CodeSource:
  """The codes of one split; see `sources.Source`.

  Picklable; files are opened where they are first read, and may be read
  from several threads.

  Attributes:
    folder: of the split.
    manifest: what it holds.
  """

  def __init__(self, folder: pathlib.Path, manifest: Manifest):
    self.folder = folder
    self.manifest = manifest
    self._readers: dict[tuple[int, int], shards.ShardReader] = {}

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
    codes, labels, names = self._reader(0, number).read([row])
    return {'codes': codes[0], 'label': int(labels[0]), 'id': names[0]}

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
        view, number = divmod(
          int(shard[places[0]]), self.manifest.shards_per_view
        )
        reader = self._reader(view, number)
        part, part_labels, _ = reader.read(rows[places].tolist())
        codes[places] = part
        labels[places] = part_labels
    return codes, labels

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_readers': {}}

  def _reader(self, view: int, number: int) -> shards.ShardReader:
    reader = self._readers.get((view, number))
    if reader is None:
      first = number * self.manifest.shard_images
      name = shards.file_name(self.manifest, view, first)
      reader = shards.ShardReader(self.folder / name, self.manifest)
      self._readers[view, number] = reader
    return reader


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
  broken = damaged(folder, manifest)
  if broken:
    name, reason = next(iter(broken.items()))
    raise errors.DataError(
      f'{folder / name}: {reason}; run `varjax encode` again with the same '
      'settings to rewrite it'
    )
  return CodeSource(folder, manifest)


def damaged(folder: pathlib.Path, manifest: Manifest) -> dict[str, str]:
  """Checks the shards that a manifest lists.

  Returns:
    What is wrong, by file name; empty when all are whole.
  """
  known = _read_verified(folder)
  verified, broken = {}, {}
  for shard in manifest.shards:
    path = folder / shard.file
    if not path.is_file():
      broken[shard.file] = 'the shard is missing'
      continue
    stat = path.stat()
    if stat.st_size != shard.bytes:
      broken[shard.file] = (
        f'the shard has {stat.st_size} bytes instead of {shard.bytes}'
      )
      continue
    # ctime as well: it changes even where a tool restores mtime.
    stamp = [shard.sha256, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    unchanged = known.get(shard.file) == stamp
    if not unchanged and shards.checksum(path) != shard.sha256:
      broken[shard.file] = 'the checksum of the shard does not match'
      continue
    verified[shard.file] = stamp
  if verified != known:
    # A read-only folder is fine: it is hashed again next time.
    with contextlib.suppress(OSError):
      partial = folder / f'{_VERIFIED}.{os.getpid()}.partial'
      partial.write_text(json.dumps(verified))
      partial.replace(folder / _VERIFIED)
  return broken


def _read_verified(folder: pathlib.Path) -> dict[str, list[Any]]:
  try:
    known = json.loads((folder / _VERIFIED).read_text())
  except (OSError, ValueError):
    return {}  # Only a shortcut: without it every shard is hashed.
  return known if isinstance(known, dict) else {}

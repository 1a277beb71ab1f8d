"""A source of encoded images packed into one .npz: many small files in one.

`webp` holds the bytes of all image files, one after the other, `offsets`
[n + 1] where each begins. Labels are `label` or `category` [n], with their
names in `labels` or `categories`. Images that are alike must stay on one
side, so the split is stored with them: `split` [n] is 0 for training and 1
for validation, or `emoji` [n] holds code points, which are split as the
built-in set is. Nothing in the file is executed (`allow_pickle=False`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Any
import zipfile

import numpy as np

from varjax import errors
from varjax.data import images
from varjax.data.emoji import code_points

_SPLITS = {'train': 0, 'validation': 1}
_LABELS = (('label', 'labels'), ('category', 'categories'))


@dataclasses.dataclass(frozen=True)
class PackedSource:
  """One split of a packed archive; see `sources.Source`.

  Attributes:
    path: the .npz.
    split: 'train' or 'validation'.
    classes: reported number of classes; 0 takes the archive's own count.
  """

  path: str
  split: str
  classes: int = 0

  def __post_init__(self):
    if self.split not in _SPLITS:
      raise errors.DataError(
        f'{self.path}: no split {self.split!r}; allowed: {", ".join(_SPLITS)}'
      )
    if not len(self):
      raise errors.DataError(f'{self.path}: its {self.split} split is empty')

  @property
  def num_classes(self) -> int:
    """Labels are below this."""
    return self.classes or len(self.class_names)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the labels."""
    return self._archive.names

  @property
  def fingerprint(self) -> str:
    """Hash of the file's bytes and the split."""
    text = f'npz {self._archive.digest} {self.split}'
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def __len__(self) -> int:
    return len(self._members)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Decodes one image.

    Raises:
      DataError: it is not a whole image.
    """
    archive, member = self._archive, int(self._members[index])
    start, stop = archive.offsets[member : member + 2]
    where = f'{self.path}: image {member}'
    image = images.decode(archive.packed[start:stop].tobytes(), where)
    label = int(archive.labels[member])
    return {'image': image, 'label': label, 'id': str(member)}

  @functools.cached_property
  def _members(self) -> np.ndarray:
    return np.flatnonzero(self._archive.splits == _SPLITS[self.split])

  @property
  def _archive(self) -> _Archive:
    # Shared by both splits, and read again in another process.
    stat = os.stat(self.path)
    return _read(self.path, stat.st_mtime_ns, stat.st_size)

  def __getstate__(self) -> dict[str, Any]:
    fields = dataclasses.fields(self)
    return {field.name: getattr(self, field.name) for field in fields}


@dataclasses.dataclass(frozen=True, eq=False)
class _Archive:
  """The checked content of a file."""

  packed: np.ndarray  # uint8
  offsets: np.ndarray  # int64 [n + 1]
  labels: np.ndarray  # int64 [n]
  splits: np.ndarray  # int64 [n], 0 or 1
  names: tuple[str, ...]
  digest: str


def open_packed(path: str, split: str, classes: int = 0) -> PackedSource:
  """Opens one split of an archive.

  Args:
    path: `data.data_dir`.
    split: 'train' or 'validation'.
    classes: reported number of classes; 0 takes the archive's own count.

  Raises:
    DataError: no such file, or not an archive of this kind.
  """
  if not path:
    raise errors.DataError(
      "data.data_dir is empty; data.name 'npz' needs the path of an archive"
    )
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    raise errors.DataError(f'{file}: no such file')
  return PackedSource(str(file), split, classes)


@functools.lru_cache(maxsize=4)
def _read(path: str, mtime: int, size: int) -> _Archive:
  del mtime, size  # A file that was replaced is another one.
  with open(path, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  try:
    with np.load(path, allow_pickle=False) as npz:
      names = set(npz.files)
      label, label_names = next(
        (keys for keys in _LABELS if names >= set(keys)), ('', '')
      )
      groups = next((key for key in ('split', 'emoji') if key in names), '')
      missing = [
        what
        for what, found in (
          ("'webp'", 'webp' in names),
          ("'offsets'", 'offsets' in names),
          ("labels ('label' and 'labels')", label),
          ("'split' or 'emoji'", groups),
        )
        if not found
      ]
      if missing:
        raise errors.DataError(
          f'{path}: has no {missing[0]}; it has {", ".join(sorted(names))}'
        )
      arrays = {
        key: npz[key] for key in ('webp', 'offsets', label, label_names, groups)
      }
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise errors.DataError(
      f'{path}: not an .npz that can be read ({error})'
    ) from error
  splits = arrays[groups]
  if groups == 'emoji':
    splits = np.array(
      [_SPLITS[code_points.split_of(code)] for code in splits.tolist()]
    )
  archive = _Archive(
    packed=arrays['webp'],
    offsets=arrays['offsets'],
    labels=arrays[label],
    splits=splits,
    names=tuple(str(name) for name in arrays[label_names].ravel()),
    digest=digest,
  )
  _check(archive, path)
  return archive


def _check(archive: _Archive, path: str) -> None:
  """Refuses arrays that do not fit together."""
  offsets, count = archive.offsets, len(archive.labels)
  kinds = {
    'webp': (archive.packed.ndim, archive.packed.dtype == np.uint8),
    'offsets': (offsets.ndim, offsets.dtype.kind in 'iu'),
    'labels': (archive.labels.ndim, archive.labels.dtype.kind in 'iu'),
    'split': (archive.splits.ndim, archive.splits.dtype.kind in 'iu'),
  }
  for name, (rank, right) in kinds.items():
    if rank != 1 or not right:
      raise errors.DataError(
        f'{path}: {name} must be one row of '
        f'{"bytes" if name == "webp" else "integers"}'
      )
  rules = {
    f'offsets must have {count + 1} entries, one more than there are labels': (
      len(offsets) == count + 1 and len(archive.splits) == count
    ),
    'offsets must rise from 0 to the size of webp': (
      offsets[0] == 0
      and offsets[-1] == len(archive.packed)
      and bool((np.diff(offsets.astype(np.int64)) > 0).all())
    ),
    f'labels must be in [0, {len(archive.names)})': (
      bool((archive.labels >= 0).all())
      and bool((archive.labels < len(archive.names)).all())
    ),
    'split must be 0 or 1': bool(np.isin(archive.splits, (0, 1)).all()),
  }
  for said, holds in rules.items():
    if not holds:
      raise errors.DataError(f'{path}: {said}')

"""A source of image files in class folders: ROOT/<split>/<class>/<file>."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Any

from varjax import errors
from varjax.data import images

SUFFIXES = frozenset(
  ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm')
)


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """Image files in class folders; see `sources.Source`.

  Attributes:
    root: folder of the split.
    files: (class/file, label) of every example, sorted.
    class_names: names of the class folders of the training split.
    num_classes: labels are below this.
    fingerprint: hash of split, file names and file sizes.
  """

  root: str
  files: tuple[tuple[str, int], ...] = dataclasses.field(repr=False)
  class_names: tuple[str, ...]
  num_classes: int
  fingerprint: str

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Reads one file.

    Raises:
      DataError: the file is gone or not a whole image.
    """
    name, label = self.files[index]
    path = pathlib.Path(self.root, name)
    try:
      encoded = path.read_bytes()
    except OSError as error:
      raise errors.DataError(
        f'{path}: cannot be read ({error.strerror})'
      ) from error
    image = images.decode(encoded, str(path))
    return {'image': image, 'label': label, 'id': name}


def open_folder(
  data_dir: str, split: str, train_split: str, num_classes: int = 0
) -> FolderSource:
  """Lists the images of one split.

  Labels are positions in the sorted class folders of the training split, so
  that a validation split that lacks a class does not shift them.

  Args:
    data_dir: folder of the splits.
    split: sub-folder to open.
    train_split: sub-folder that defines the classes, where it exists.
    num_classes: reported number of classes; 0 counts the folders.

  Raises:
    DataError: a folder is missing or empty, or a class is not one of the
      training split.
  """
  if not data_dir:
    raise errors.DataError(
      "data.data_dir is empty; data.name 'folder' needs the folder that "
      f'holds {train_split}/<class>/<image files>'
    )
  root = pathlib.Path(data_dir).expanduser() / split
  folders = _class_folders(root)
  train = root.parent / train_split
  classes = folders if not train.is_dir() else _class_folders(train)
  label_of = {folder.name: label for label, folder in enumerate(classes)}
  digest = hashlib.sha256(repr(('folder', split, tuple(label_of))).encode())
  files = []
  for folder in folders:
    if folder.name not in label_of:
      raise errors.DataError(
        f'{folder}: {train} has no class of this name; the classes of every '
        'split must be among those of the training split'
      )
    found = _image_files(folder)
    for path in found:
      name = f'{folder.name}/{path.name}'
      digest.update(f'{name}\0{path.stat().st_size}\0'.encode())
      files.append((name, label_of[folder.name]))
    if not found:
      raise errors.DataError(
        f'{folder}: holds no image file; each class folder needs at least '
        f'one of {", ".join(sorted(SUFFIXES))}'
      )
  return FolderSource(
    root=str(root),
    files=tuple(files),
    class_names=tuple(label_of),
    num_classes=num_classes or len(label_of),
    fingerprint=digest.hexdigest()[:16],
  )


def _class_folders(root: pathlib.Path) -> list[pathlib.Path]:
  if not root.is_dir():
    raise errors.DataError(
      f'{root}: no such folder; images are expected in '
      f'{root}/<class>/<image files>'
    )
  folders = sorted(
    path
    for path in root.iterdir()
    if path.is_dir() and not path.name.startswith('.')
  )
  if not folders:
    raise errors.DataError(
      f'{root}: holds no class folders; images are expected in '
      f'{root}/<class>/<image files>'
    )
  return folders


def _image_files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(
    path
    for path in folder.iterdir()
    if path.suffix.lower() in SUFFIXES
    and not path.name.startswith('.')
    and path.is_file()
  )

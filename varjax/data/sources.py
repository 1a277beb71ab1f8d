"""Sources: random access to labelled images, whatever stores them.

The first stage of the data pipeline. Every source is picklable, so that it
works in other processes, and opens its files where it is first read.
"""

from __future__ import annotations

from typing import Any, Protocol

from varjax import errors
from varjax.data import builders, folders, packed
from varjax.data.emoji import prepare
from varjax.spec import DataSpec

SPLITS = ('train', 'validation')


class Source(Protocol):
  """A random-access split of a labelled dataset.

  Attributes:
    num_classes: labels are in [0, num_classes).
    class_names: one name per label; may be shorter than num_classes where
      the experiment asked for more classes than the data has.
    fingerprint: hash of what the dataset and the split are; equal on every
      machine that holds the same data.
  """

  @property
  def num_classes(self) -> int: ...

  @property
  def class_names(self) -> tuple[str, ...]: ...

  @property
  def fingerprint(self) -> str: ...

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]:
    """{'image': uint8 [H, W, 3], 'label': int, 'id': str} of one example.

    A code source has 'codes': int32 [L, R] in place of 'image'.
    """
    ...


def open_source(spec: DataSpec, split: str) -> Source:
  """Opens one split of the images that `spec` names.

  Args:
    spec: `name` is 'emoji' (built in; prepared below `data_dir` or the cache
      on first use), 'folder' (`data_dir`/<split>/<class>/<image files>),
      'npz' (`data_dir` is the path of a packed archive, see `packed`), or a
      tfds dataset that has been prepared as array_record files. No network
      is used.
    split: 'train' or 'validation'; `spec.train_split` and `spec.val_split`
      say what these are called in the data.

  Returns:
    The source, with its examples in a fixed order.

  Raises:
    DataError: the data is missing, empty or not what `spec` says.
  """
  if split not in SPLITS:
    raise errors.DataError(
      f'split {split!r} is unknown; allowed: {", ".join(SPLITS)}'
    )
  stored = spec.train_split if split == 'train' else spec.val_split
  source: folders.FolderSource | builders.BuilderSource | packed.PackedSource
  if spec.name == 'folder':
    source = folders.open_folder(
      spec.data_dir, stored, spec.train_split, spec.num_classes
    )
  elif spec.name == 'npz':
    source = packed.open_packed(spec.data_dir, stored, spec.num_classes)
  elif spec.name == 'emoji':
    folder = prepare.prepare(prepare.cache_dir(spec.data_dir))
    source = builders.BuilderSource(str(folder), stored, spec.num_classes)
  else:
    folder = builders.find(spec.name, spec.data_dir)
    source = builders.BuilderSource(str(folder), stored, spec.num_classes)
  if 0 < spec.num_classes < len(source.class_names):
    raise errors.DataError(
      f'data.num_classes is {spec.num_classes}, but {spec.name!r} has '
      f'{len(source.class_names)} classes; allowed: 0, or at least that many'
    )
  return source

"""A source of a prepared tfds dataset, read without TensorFlow.

Only what lies on disk is read: tfds would spend minutes on network retries
for a dataset that is not there, so `find` looks first and says how to
prepare it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from typing import Any

from varjax import errors
from varjax.data import images

_MANUAL = {
  'imagenet2012': (
    'ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org'
  ),
}


@dataclasses.dataclass(frozen=True)
class BuilderSource:
  """One split of a prepared tfds dataset; see `sources.Source`.

  Attributes:
    folder: the version folder, which holds dataset_info.json.
    split: a tfds split, such as 'train' or 'train[:90%]'.
    classes: reported number of classes; 0 takes the dataset's own count.
  """

  folder: str
  split: str
  classes: int = 0

  def __post_init__(self):
    # A bad split or format is told where the source is opened.
    len(self)

  @property
  def num_classes(self) -> int:
    """Labels are below this."""
    return self.classes or len(self.class_names)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the labels."""
    label = self._builder.info.features['label']
    names = getattr(label, 'names', None)
    if names is None:
      raise errors.DataError(
        f"{self.folder}: the feature 'label' is not a class label"
      )
    return tuple(names)

  @property
  def fingerprint(self) -> str:
    """Hash of name, version, split, sizes and classes."""
    info = self._builder.info
    identity = (
      info.name,
      info.config_name or '',
      str(info.version),
      self.split,
      len(self),
      {name: split.shard_lengths for name, split in info.splits.items()},
      self.class_names,
    )
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Reads one record.

    Raises:
      DataError: the record cannot be read, or its image is corrupt.
    """
    try:
      record = self._records[index]
    except (ValueError, RuntimeError, OSError) as error:
      raise errors.DataError(
        f'{self.folder}: record {index} of {self.split!r} cannot be read '
        f'({str(error).splitlines()[0]}); prepare the dataset again'
      ) from error
    name = record.get('id', record.get('file_name'))
    if name is None:
      name = f'{self.split}/{index}'
    name = name.decode() if isinstance(name, bytes) else str(name)
    where = f'{self.folder}: record {index} of {self.split!r} ({name})'
    image = images.decode(record['image'], where)
    return {'image': image, 'label': int(record['label']), 'id': name}

  def __getstate__(self) -> dict[str, Any]:
    fields = dataclasses.fields(self)
    return {field.name: getattr(self, field.name) for field in fields}

  @functools.cached_property
  def _builder(self) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(self.folder)

  @functools.cached_property
  def _records(self) -> Any:
    import tensorflow_datasets as tfds

    info = self._builder.info
    if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
      raise errors.DataError(
        f'{self.folder}: stored as {info.file_format.value}; prepare it again '
        'with file_format array_record'
      )
    missing = {'image', 'label'} - set(info.features)
    if missing:
      raise errors.DataError(
        f'{self.folder}: has no feature {sorted(missing)[0]!r}, only '
        f'{", ".join(sorted(info.features))}; a labelled image set is needed'
      )
    try:
      return self._builder.as_data_source(
        self.split, decoders={'image': tfds.decode.SkipDecoding()}
      )
    except (ValueError, KeyError) as error:
      raise errors.DataError(
        f'{self.folder}: no split {self.split!r}; allowed: '
        f'{", ".join(sorted(info.splits))} and slices such as train[:90%]'
      ) from error


def find(name: str, data_dir: str) -> pathlib.Path:
  """Finds a prepared dataset on disk, without network.

  Args:
    name: 'dataset', 'dataset/config' or either with ':version'; the newest
      version is taken when none is given.
    data_dir: the tfds data directory; '' takes TFDS_DATA_DIR or
      ~/tensorflow_datasets.

  Returns:
    The version folder.

  Raises:
    DataError: no such dataset, or it has not been prepared there.
  """
  root = pathlib.Path(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  ).expanduser()
  stem, _, version = name.partition(':')
  base = root / stem
  found = [
    path.parent
    for pattern in ('*/dataset_info.json', '*/*/dataset_info.json')
    for path in base.glob(pattern)
    if not path.parent.name.startswith('incomplete.')
  ]
  found = [path for path in found if version in ('', path.name)]
  if not found:
    raise errors.DataError(_how_to_prepare(name, root))
  if len({path.parent for path in found}) > 1:
    configs = sorted({path.parent.name for path in found})
    raise errors.DataError(
      f'{base}: holds several configurations; data.name must be one of '
      + ', '.join(f'{stem}/{config}' for config in configs)
    )
  return max(found, key=lambda path: _version_key(path.name))


def _version_key(version: str) -> tuple[int, ...]:
  parts = version.split('.')
  return tuple(int(part) if part.isdigit() else -1 for part in parts)


def _how_to_prepare(name: str, root: pathlib.Path) -> str:
  import tensorflow_datasets as tfds

  base = name.partition(':')[0].partition('/')[0]
  if base not in tfds.list_builders(with_community_datasets=False):
    return (
      f'dataset {name!r} is unknown and not in {root}; allowed: emoji (built '
      'in), folder, or the name of a tfds dataset prepared in data_dir'
    )
  first, option = '', ''
  if base in _MANUAL:
    manual = root / 'downloads' / 'manual'
    first = f'put {_MANUAL[base]} into {manual}, then '
    option = f' --manual_dir={manual}'
  return (
    f'dataset {name!r} is not prepared in {root}: {first}run once, in an '
    f'environment that has TensorFlow, `tfds build {name} --data_dir={root}'
    f'{option} --file_format=array_record`'
  )

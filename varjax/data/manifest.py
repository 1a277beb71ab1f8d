"""What a folder of cached codes holds, as JSON beside the shards.

One manifest per split. It is written after every finished shard, so that an
interrupted `encode_split` knows what it may keep, and it binds the codes to
the tokenizer, the images and the crops that they came from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import typing
from typing import Any

import numpy as np

from varjax import errors
from varjax.types import CodeSpec

FILE = 'manifest.json'
SCHEMA = 1
# An example in a shard: codes [L, R], label, id.
Row = tuple[np.ndarray, int, str]


@dataclasses.dataclass(frozen=True)
class Shard:
  """One finished shard.

  Attributes:
    file: name in the folder of the manifest.
    view: which crop of the images it holds.
    first, examples: it holds examples first .. first + examples - 1.
    bytes, sha256: of the file.
  """

  file: str
  view: int
  first: int
  examples: int
  bytes: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Everything about the codes of one split but the codes.

  Attributes:
    schema: version of this layout.
    tokenizer_id: content hash of the tokenizer.
    dataset, fingerprint, split: the images, see `sources.Source`.
    resolution, resize_ratio, flip, seed: how the crops were made.
    views: differently cropped codes of each image.
    grids, vocab, code_dim, codes_per_position: the `CodeSpec`.
    dtype: of the stored values, '<u2' or '<u4'.
    examples: images in the split.
    num_classes, class_names: of the labels.
    shard_images: images in every shard but the last of a view.
    shards: finished shards, by view and first example.
    codes_id: hash of all of the above; '' while shards are missing.
  """

  schema: int
  tokenizer_id: str
  dataset: str
  fingerprint: str
  split: str
  resolution: int
  resize_ratio: float
  flip: bool
  seed: int
  views: int
  grids: tuple[tuple[int, int], ...]
  vocab: int
  code_dim: int
  codes_per_position: int
  dtype: str
  examples: int
  num_classes: int
  class_names: tuple[str, ...]
  shard_images: int
  shards: tuple[Shard, ...] = ()
  codes_id: str = ''

  @property
  def code_spec(self) -> CodeSpec:
    """What the tokenizer emitted."""
    return CodeSpec(
      grids=self.grids,
      vocab=self.vocab,
      code_dim=self.code_dim,
      codes_per_position=self.codes_per_position,
    )

  @property
  def codes_per_image(self) -> int:
    """Stored values of one example, L * R."""
    return self.code_spec.positions * self.codes_per_position

  @property
  def shards_per_view(self) -> int:
    """Shards of one view when it is complete."""
    return -(-self.examples // self.shard_images)

  def with_shards(self, shards: tuple[Shard, ...]) -> Manifest:
    """This manifest with other shards; sets `codes_id` once all are there."""
    ordered = tuple(sorted(shards, key=lambda shard: (shard.view, shard.first)))
    manifest = dataclasses.replace(self, shards=ordered, codes_id='')
    if len(ordered) < self.views * self.shards_per_view:
      return manifest
    return dataclasses.replace(manifest, codes_id=manifest.content_hash())

  def content_hash(self) -> str:
    """Hash of the manifest without its own `codes_id`."""
    fields = dataclasses.asdict(dataclasses.replace(self, codes_id=''))
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save(manifest: Manifest, folder: pathlib.Path) -> None:
  """Writes `folder`/manifest.json in one step."""
  partial = folder / f'{FILE}.partial'
  text = json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True)
  with partial.open('w') as stream:
    stream.write(text + '\n')
    stream.flush()
    os.fsync(stream.fileno())
  partial.replace(folder / FILE)


def load(folder: pathlib.Path) -> Manifest:
  """Reads `folder`/manifest.json, finished or not.

  Raises:
    DataError: the file is missing, not a manifest, of another schema, or
      was changed after it was finished.
  """
  path = folder / FILE
  try:
    tree = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise errors.DataError(
      f'{path}: no such file; run `varjax encode` to write these codes'
    ) from error
  except (OSError, ValueError) as error:
    raise errors.DataError(
      f'{path}: cannot be read ({error}); delete the folder and encode again'
    ) from error
  schema = tree.get('schema') if isinstance(tree, dict) else None
  if schema != SCHEMA:
    raise errors.DataError(
      f'{path}: schema {schema!r} is unknown, this version reads {SCHEMA}; '
      'encode again'
    )
  try:
    manifest = _from_tree(tree)
  except (KeyError, TypeError, ValueError) as error:
    raise errors.DataError(
      f'{path}: not a code manifest ({error}); delete the folder and encode '
      'again'
    ) from error
  if manifest.codes_id and manifest.codes_id != manifest.content_hash():
    raise errors.DataError(
      f'{path}: was changed after it was written (codes_id does not match); '
      'delete the folder and encode again'
    )
  return manifest


def _from_tree(tree: dict[str, Any]) -> Manifest:
  values = dict(tree)
  values['grids'] = tuple((int(h), int(w)) for h, w in tree['grids'])
  values['class_names'] = tuple(tree['class_names'])
  values['shards'] = tuple(_checked(Shard(**row)) for row in tree['shards'])
  return _checked(Manifest(**values))


def _checked(record: Any) -> Any:
  """Refuses scalar fields of a type that the dataclass does not declare."""
  for name, hint in typing.get_type_hints(type(record)).items():
    value = getattr(record, name)
    if hint in (int, str, bool) and type(value) is not hint:
      raise TypeError(f'{name} is {value!r}, not {hint.__name__}')
  return record

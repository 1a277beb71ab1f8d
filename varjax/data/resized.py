"""Resized images kept in memory, for sets that are read again and again.

Decoding and resizing cost ten times as much as a crop. A small set, such as
the built-in emoji, is decoded once; of a large one the first images are
kept, up to a limit, and the rest is read every time.
"""

from __future__ import annotations

from typing import Any

from varjax.data import preprocess
from varjax.data.sources import Source
from varjax.spec import DataSpec

LIMIT_BYTES = 512 << 20


class ResizedSource:
  """A source whose images have their final shorter side.

  May be read from several threads.

  Attributes:
    source: what is read.
    limit_bytes: of images that are kept.
  """

  def __init__(
    self, source: Source, spec: DataSpec, limit_bytes: int = LIMIT_BYTES
  ):
    self.source = source
    self.limit_bytes = limit_bytes
    self._spec = spec
    self._kept: dict[int, dict[str, Any]] = {}
    self._bytes = 0

  @property
  def num_classes(self) -> int:
    """Labels are below this."""
    return self.source.num_classes

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the labels."""
    return self.source.class_names

  @property
  def fingerprint(self) -> str:
    """That of the source."""
    return self.source.fingerprint

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """As the source, with 'image' resized; do not write to it."""
    kept = self._kept.get(index)
    if kept is not None:
      return kept
    example = self.source[index]
    image = preprocess.resize(example['image'], self._spec)
    example = {**example, 'image': image}
    if self._bytes + image.nbytes <= self.limit_bytes:
      self._kept[index] = example
      self._bytes += image.nbytes
    return example

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_kept': {}, '_bytes': 0}

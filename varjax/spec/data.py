"""The images of a run."""

from __future__ import annotations

import dataclasses

from varjax.spec.fields import not_identity


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Which images, and how they become square crops (official VAR data code).

  Attributes:
    name: 'emoji' (built in), 'folder', 'npz' (images packed into one file),
      or the name of a tfds builder.
    data_dir: folder of class folders, path of the packed file, or the tfds
      data directory ('' uses the tfds default).
    resolution: side of the crop in pixels.
    train_split, val_split: tfds split names, or sub-folders.
    resize_ratio: shorter side is resized to round(ratio * resolution).
    flip: random horizontal flip in training.
    num_classes: classes of the labels; 0 takes the source's own count.
  """

  name: str = 'emoji'
  data_dir: str = not_identity('')
  resolution: int = 32
  train_split: str = 'train'
  val_split: str = 'validation'
  resize_ratio: float = 1.125
  flip: bool = False
  num_classes: int = 0

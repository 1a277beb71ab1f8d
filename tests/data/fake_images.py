"""A small image source and a stand-in for a tokenizer, for the data tests.

Importable from subprocesses too, which is why these are not fixtures.
"""

import dataclasses

import numpy as np

from varjax.spec import DataSpec
from varjax.types import CodeSpec

CODE_SPEC = CodeSpec(grids=((1, 1), (2, 2)), vocab=256, code_dim=4)
DATA_SPEC = DataSpec(name='fake', resolution=8, resize_ratio=1.5)


@dataclasses.dataclass(frozen=True)
class FakeImages:
  """`size` images of noise, 14 x 10 pixels, with labels 0, 1, 2."""

  size: int = 40
  num_classes: int = 3
  class_names: tuple[str, ...] = ('a', 'b', 'c')
  fingerprint: str = 'fake'

  def __len__(self):
    return self.size

  def __getitem__(self, index):
    if not 0 <= index < self.size:
      raise IndexError(index)
    noise = np.random.default_rng(index).integers(0, 256, (14, 10, 3))
    return {
      'image': noise.astype(np.uint8),
      'label': index % 3,
      'id': f'id-{index}-é' + 'x' * (index % 5),
    }


def fake_encode(images):
  """The first pixels of the crop as codes [B, 5, 1]."""
  return images[:, 0, :5, :1].astype(np.int32)

"""The built-in emoji images as a tfds dataset (array_record, no TensorFlow).

The validation split holds out emoji, not images: about a tenth of the code
points, chosen by a hash, so that both styles of one emoji, which are near
duplicates, are always in the same split.
"""

from __future__ import annotations

from collections.abc import Iterator
import importlib.resources
import io
from typing import Any

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from varjax.data.emoji import code_points


class Builder(tfds.core.GeneratorBasedBuilder):
  """3,742 images of 1,899 emoji in two styles, 9 category labels."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    labels = [str(label) for label in load()['labels']]
    return self.dataset_info_from_configs(
      description=self.__doc__,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(
            shape=(32, 32, 3), encoding_format='png'
          ),
          'label': tfds.features.ClassLabel(names=labels),
          'id': tfds.features.Text(),
          'emoji': tfds.features.Text(),
          'name': tfds.features.Text(),
          'style': tfds.features.Text(),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # Nothing is downloaded.
    return {
      split: self._generate_examples(split) for split in ('train', 'validation')
    }

  def _generate_examples(
    self, split: str
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    tables = load()
    packed, offsets = tables['webp'].tobytes(), tables['offsets']
    for index, emoji in enumerate(tables['emoji'].tolist()):
      if code_points.split_of(emoji) != split:
        continue
      style = str(tables['styles'][tables['style'][index]])
      key = f'{emoji}/{style}'
      encoded = packed[offsets[index] : offsets[index + 1]]
      yield (
        key,
        {
          'image': Image.open(io.BytesIO(encoded)).convert('RGB'),
          'label': int(tables['label'][index]),
          'id': key,
          'emoji': emoji,
          'name': str(tables['name'][index]),
          'style': style,
        },
      )


def load() -> dict[str, np.ndarray]:
  """The arrays of the vendored file."""
  file = importlib.resources.files('varjax.data.emoji') / 'emoji32.npz'
  with file.open('rb') as stream, np.load(stream, allow_pickle=False) as npz:
    return {key: npz[key] for key in npz.files}

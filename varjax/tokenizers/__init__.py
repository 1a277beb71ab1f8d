"""Tokenizers: what the symbols are. `TOKENIZERS` names every kind.

To add a quantizer to the convolutional autoencoder, see
docs/adding_a_tokenizer.md; anything else implements
`tokenizers.base.Tokenizer` and is added here.
"""

from __future__ import annotations

from varjax import errors, tokenizer_rules
from varjax.spec import TokenizerSpec
from varjax.tokenizers.autoencoder import Autoencoder
from varjax.tokenizers.base import Tokenizer
from varjax.tokenizers.pixel import PixelTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
  'bsq': Autoencoder,
  'fsq': Autoencoder,
  'lfq': Autoencoder,
  'msvq': Autoencoder,
  'palette': PixelTokenizer,
  'pixel': PixelTokenizer,
  'rq': Autoencoder,
  'vq': Autoencoder,
}


def make_tokenizer(
  spec: TokenizerSpec, resolution: int | tuple[int, int]
) -> Tokenizer:
  """The tokenizer that a spec describes.

  Args:
    spec: its kind and architecture.
    resolution: side, or (height, width), of the images in pixels.

  Raises:
    ConfigError: an unknown kind, a value out of range, or scales that do
      not end at the resolution.
  """
  tokenizer_rules.check(spec)
  size = (resolution,) * 2 if isinstance(resolution, int) else resolution
  pixels = tuple(side * spec.downsample for side in spec.grids[-1])
  if pixels != tuple(size):
    raise errors.ConfigError(
      f'tokenizer.scales={spec.scales}: the last scale times the '
      f'down-sampling {spec.downsample} is {pixels} pixels, but images have '
      f'{tuple(size)}'
    )
  return TOKENIZERS[spec.kind](spec)

"""Tokenizers: what the symbols are. `TOKENIZERS` names every kind.

To add one, implement `tokenizers.base.Tokenizer`, add it here, and test
that it decodes what it encodes.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from varjax import errors
from varjax.spec import TokenizerSpec
from varjax.tokenizers.base import Tokenizer
from varjax.tokenizers.msvqvae import MultiScaleVQVAE

TOKENIZERS = {'msvq': MultiScaleVQVAE}


def make_tokenizer(
  spec: TokenizerSpec,
  resolution: int | tuple[int, int],
  dtype: Any = jnp.float32,
) -> Tokenizer:
  """The tokenizer that a spec describes.

  Args:
    spec: its kind and architecture.
    resolution: side, or (height, width), of the images in pixels.
    dtype: of the network's arithmetic; weights and codes are unaffected.

  Raises:
    ConfigError: an unknown kind, a value out of range, or scales that do
      not end at the resolution.
  """
  if spec.kind not in TOKENIZERS:
    raise errors.ConfigError(
      f'tokenizer.kind={spec.kind!r}: must be one of '
      f'{", ".join(sorted(TOKENIZERS))}'
    )
  _check(spec)
  size = (resolution,) * 2 if isinstance(resolution, int) else resolution
  pixels = tuple(side * spec.downsample for side in spec.grids[-1])
  if pixels != tuple(size):
    raise errors.ConfigError(
      f'tokenizer.scales={spec.scales}: the last scale times the '
      f'down-sampling {spec.downsample} is {pixels} pixels, but images have '
      f'{tuple(size)}'
    )
  return TOKENIZERS[spec.kind](spec, dtype)


def _check(spec: TokenizerSpec) -> None:
  rules = {
    'phi_ratio': (0 <= spec.phi_ratio <= 1, 'in [0, 1]'),
    'phi_count': (spec.phi_count >= 0, 'at least 0'),
    'num_res_blocks': (spec.num_res_blocks >= 1, 'at least 1'),
    'quant_conv_size': (spec.quant_conv_size % 2 == 1, 'odd'),
    'dropout': (0 <= spec.dropout < 1, 'in [0, 1)'),
    'usage_decay': (0 <= spec.usage_decay < 1, 'in [0, 1)'),
    'revive_every': (spec.revive_every >= 0, 'at least 0'),
  }
  for key, (holds, allowed) in rules.items():
    if not holds:
      raise errors.ConfigError(
        f'tokenizer.{key}={getattr(spec, key)}: must be {allowed}'
      )

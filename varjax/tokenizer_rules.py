"""What a tokenizer may not be, whatever its images: refused by key.

Read by `validation` before a run compiles and by `make_tokenizer`, which also
serves imported tokenizers. No JAX in here.
"""

from __future__ import annotations

import math

from varjax import errors
from varjax.spec import TokenizerSpec

KINDS = ('bsq', 'fsq', 'lfq', 'msvq', 'palette', 'pixel', 'rq', 'vq')
# Kinds with a learned table of code vectors.
WITH_CODEBOOK = ('msvq', 'rq', 'vq')
_BINARY = ('bsq', 'lfq')
# Kinds without a network, that nothing trains.
PIXELS = ('palette', 'pixel')
# Codes are counted in a table of this many columns.
_MAX_VOCAB = 1 << 24
_DTYPES = ('float32', 'bfloat16')


def check(spec: TokenizerSpec) -> None:
  """Refuses values out of range and keys that the kind cannot honour.

  Raises:
    ConfigError: naming the key and what is allowed.
  """
  kind = spec.kind
  if kind not in KINDS:
    raise errors.ConfigError(
      f'tokenizer.kind={kind!r}: must be one of {", ".join(KINDS)}'
    )
  rules = {
    'phi_ratio': (0 <= spec.phi_ratio <= 1, 'in [0, 1]'),
    'phi_count': (spec.phi_count >= 0, 'at least 0'),
    'num_res_blocks': (spec.num_res_blocks >= 1, 'at least 1'),
    'quant_conv_size': (spec.quant_conv_size % 2 == 1, 'odd'),
    'dropout': (0 <= spec.dropout < 1, 'in [0, 1)'),
    'usage_decay': (0 <= spec.usage_decay < 1, 'in [0, 1)'),
    'revive_every': (spec.revive_every >= 0, 'at least 0'),
    'kmeans_updates': (spec.kmeans_updates >= 0, 'at least 0'),
    'latent_dim': (spec.latent_dim >= 0, 'at least 0'),
    'commitment': (spec.commitment >= 0, 'at least 0'),
    'entropy': (spec.entropy >= 0, 'at least 0'),
    'entropy_temperature': (spec.entropy_temperature > 0, 'above 0'),
    'compute_dtype': (
      spec.compute_dtype in _DTYPES,
      f'one of {", ".join(_DTYPES)}',
    ),
    'codes_per_position': (spec.codes_per_position >= 1, 'at least 1'),
  }
  for key, (holds, allowed) in rules.items():
    if not holds:
      raise errors.ConfigError(f'{_named(spec, key)}: must be {allowed}')
  for key, needs in (
    ('revive_every', WITH_CODEBOOK),
    ('kmeans_updates', WITH_CODEBOOK),
    ('entropy', ('vq', *_BINARY)),
    ('znorm', ('msvq', 'vq')),
    ('levels', ('fsq',)),
  ):
    if getattr(spec, key) and kind not in needs:
      raise errors.ConfigError(
        f'{_named(spec, key)}: kind={kind!r} has no use for it, only '
        f'{", ".join(needs)}'
      )
  if spec.codes_per_position > 1 and kind not in ('rq', 'pixel', *_BINARY):
    raise errors.ConfigError(
      f'{_named(spec, "codes_per_position")}: kind={kind!r} has one code per '
      'position; only rq, lfq, bsq and pixel have several'
    )
  if kind != 'msvq' and len(spec.grids) != 1:
    raise errors.ConfigError(
      f'{_named(spec, "scales")}: kind={kind!r} has one grid, such as (16,)'
    )
  if spec.kmeans_updates and spec.official_usage:
    raise errors.ConfigError(
      f'{_named(spec, "kmeans_updates")}: needs tokenizer.official_usage=False,'
      ' whose counter of batches is right'
    )
  if kind == 'fsq':
    _check_levels(spec)
  if kind in _BINARY:
    _check_bits(spec)
  if kind in PIXELS:
    _equal(spec, 'ch_mult', (1,), 'pixels are not reduced')
  if kind == 'pixel':
    _equal(spec, 'vocab', 256, 'the values of a channel')
    _equal(spec, 'codes_per_position', 3, 'the channels')


def _check_levels(spec: TokenizerSpec) -> None:
  if not spec.levels or min(spec.levels) < 2:
    raise errors.ConfigError(
      f'{_named(spec, "levels")}: needs at least 2 for every channel, such as '
      '(8, 5, 5, 5)'
    )
  _equal(spec, 'code_dim', len(spec.levels), 'channels with levels')
  _equal(spec, 'vocab', math.prod(spec.levels), 'the product of the levels')
  _check_vocab(spec)


def _check_bits(spec: TokenizerSpec) -> None:
  for key in ('codes_per_position', 'entropy_bits'):
    value = getattr(spec, key)
    if value < 1 or spec.code_dim % value:
      raise errors.ConfigError(
        f'{_named(spec, key)}: must divide tokenizer.code_dim='
        f'{spec.code_dim}, the bits of a position'
      )
  bits = spec.code_dim // spec.codes_per_position
  _equal(spec, 'vocab', 1 << bits, f'2 to the {bits} bits of a code')
  _check_vocab(spec)


def _check_vocab(spec: TokenizerSpec) -> None:
  if spec.vocab > _MAX_VOCAB:
    raise errors.ConfigError(
      f'{_named(spec, "vocab")}: at most {_MAX_VOCAB}, codes are counted one '
      'by one; lfq and bsq can have more codes_per_position'
    )


def _equal(spec: TokenizerSpec, key: str, value: int, meaning: str) -> None:
  if getattr(spec, key) != value:
    raise errors.ConfigError(f'{_named(spec, key)}: must be {value}, {meaning}')


def _named(spec: TokenizerSpec, key: str) -> str:
  return f'tokenizer.{key}={getattr(spec, key)!r}'

"""What a tokenizer may not be, whatever its images: refused by key.

Read by `validation` before a run compiles and by `make_tokenizer`, which also
serves imported tokenizers. No JAX in here.
"""

from __future__ import annotations

from varjax import errors
from varjax.spec import TokenizerSpec

KINDS = ('msvq', 'rq', 'vq')
# Kinds with a learned table of code vectors.
WITH_CODEBOOK = ('msvq', 'rq', 'vq')
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
    ('entropy', ('vq',)),
    ('znorm', ('msvq', 'vq')),
  ):
    if getattr(spec, key) and kind not in needs:
      raise errors.ConfigError(
        f'{_named(spec, key)}: kind={kind!r} has no use for it, only '
        f'{", ".join(needs)}'
      )
  if spec.codes_per_position > 1 and kind != 'rq':
    raise errors.ConfigError(
      f'{_named(spec, "codes_per_position")}: kind={kind!r} has one code per '
      "position; use kind='rq' or set it to 1"
    )
  if kind != 'msvq' and len(spec.grids) != 1:
    raise errors.ConfigError(
      f'{_named(spec, "scales")}: kind={kind!r} has one grid, such as (16,)'
    )


def _named(spec: TokenizerSpec, key: str) -> str:
  return f'tokenizer.{key}={getattr(spec, key)!r}'

"""What network a pair of official state dicts holds, from their shapes.

Names and shapes fix almost everything; what they cannot fix has the value
of every released model and can be given. A given value that the tensors
contradict is refused. Source: FoundationVision/VAR (the classes VQVAE and VAR).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import re
from typing import Any

import numpy as np

from varjax import errors

State = Mapping[str, np.ndarray]
Grid = int | Sequence[int]

# Positions of the released schedules.
SCHEDULES = {
  680: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
  2240: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
  9451: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}
HEAD_SIZE = 64
# Not in the tensors; the values of all released models.
ASSUMED = {
  'using_znorm': False,
  'quant_resi': 0.5,
  'beta': 0.25,
  'dropout': 0.0,
  'norm_groups': 32,
  'norm_eps_gn': 1e-6,
  'cond_drop_rate': 0.1,
}


def infer_config(
  vae_state: State,
  var_state: State,
  patch_nums: Sequence[Grid] | None = None,
  **given: Any,
) -> dict[str, Any]:
  """The constructor arguments that a pair of checkpoints was made with.

  Args:
    vae_state, var_state: arrays under official names.
    patch_nums: grid of each scale, an int or (height, width); by default
      from the buffer `lvl_1L` (square grids) or from L, if it is 680, 2240
      or 9451.
    **given: keys of the result. `num_heads` is needed without l2-norm
      attention unless the head size is 64; keys of `ASSUMED` and
      `drop_path_rate` (0.1 depth / 24) replace the assumed value.

  Returns:
    A config for `official.pipeline`.

  Raises:
    CheckpointError: a tensor is missing, the two do not fit together, or a
      given value contradicts them; names the tensor.
    ConfigError: the schedule or the heads must be given, or an unknown key.
  """
  vae, var = _infer_vae(vae_state), _infer_var(var_state)
  for key, mine, theirs in (
    ('Cvae', 'quantize.embedding.weight', 'word_embed.weight'),
    ('V', 'quantize.embedding.weight', 'head.weight'),
  ):
    if vae[key] != var[key]:
      raise errors.CheckpointError(
        f'{theirs}: made for {key}={var[key]}, but {mine} of the tokenizer '
        f'has {key}={vae[key]}; these checkpoints do not belong together'
      )
  inferred: dict[str, Any] = vae | var
  inferred['num_heads'] = _heads(var_state, var['embed_dim'], given)
  inferred['patch_nums'] = _schedule(var_state, patch_nums)
  assumed = ASSUMED | {'drop_path_rate': 0.1 * var['depth'] / 24}
  if vae['share_quant_resi'] is None:
    # Without phi modules there is nothing to share.
    inferred['share_quant_resi'] = 4
    assumed['quant_resi'] = 0.0
  for key, value in given.items():
    if key not in inferred and key not in assumed:
      allowed = ', '.join(sorted(inferred.keys() | assumed.keys()))
      raise errors.ConfigError(f'{key}: not a key of a config; keys: {allowed}')
    if key in inferred and inferred[key] != value:
      raise errors.CheckpointError(
        f'{_EVIDENCE.get(key, key)}: says {key}={inferred[key]}, but '
        f'{key}={value} was given'
      )
  config = assumed | inferred | given
  _check_groups(config)
  return config


# Which tensor an inferred value comes from.
_EVIDENCE = {
  'ch': 'encoder.conv_in.weight',
  'ch_mult': 'encoder.down.0.block.0.conv2.weight',
  'num_res_blocks': 'encoder.down.0.block.0.conv2.weight',
  'quant_conv_ks': 'quant_conv.weight',
  'share_quant_resi': 'quantize.quant_resi',
  'V': 'quantize.embedding.weight',
  'Cvae': 'quantize.embedding.weight',
  'depth': 'blocks.0.attn.mat_qkv.weight',
  'embed_dim': 'word_embed.weight',
  'num_classes': 'class_emb.weight',
  'mlp_ratio': 'blocks.0.ffn.fc1.weight',
  'shared_aln': 'shared_ada_lin.1.weight',
  'attn_l2_norm': 'blocks.0.attn.scale_mul_1H11',
  'num_heads': 'blocks.0.attn.scale_mul_1H11',
}


def _infer_vae(state: State) -> dict[str, Any]:
  ch = _shape(state, 'encoder.conv_in.weight', 4)[0]
  vocab, code_dim = _shape(state, 'quantize.embedding.weight', 2)
  levels = _count(state, r'encoder\.down\.(\d+)\.')
  multipliers = []
  for level in range(levels):
    name = f'encoder.down.{level}.block.0.conv2.weight'
    channels = _shape(state, name, 4)[0]
    if channels % ch:
      raise errors.CheckpointError(
        f'{name}: {channels} channels are not a multiple of ch={ch}, the '
        'channels of encoder.conv_in.weight'
      )
    multipliers.append(channels // ch)
  return {
    'ch': ch,
    'ch_mult': tuple(multipliers),
    'num_res_blocks': _count(state, r'encoder\.down\.0\.block\.(\d+)\.'),
    'Cvae': code_dim,
    'V': vocab,
    'quant_conv_ks': _shape(state, 'quant_conv.weight', 4)[-1],
    'share_quant_resi': _sharing(state),
  }


def _infer_var(state: State) -> dict[str, Any]:
  width, code_dim = _shape(state, 'word_embed.weight', 2)
  hidden = _shape(state, 'blocks.0.ffn.fc1.weight', 2)[0]
  return {
    'depth': _count(state, r'blocks\.(\d+)\.'),
    'embed_dim': width,
    'num_classes': _shape(state, 'class_emb.weight', 2)[0] - 1,
    'mlp_ratio': hidden / width,
    'shared_aln': 'shared_ada_lin.1.weight' in state,
    'attn_l2_norm': 'blocks.0.attn.scale_mul_1H11' in state,
    'Cvae': code_dim,
    'V': _shape(state, 'head.weight', 2)[0],
  }


def _sharing(state: State) -> int | None:
  """Official share_quant_resi: n shared, 1, 0 (one per scale), or None."""
  prefix = 'quantize.quant_resi'
  if any(name.startswith(f'{prefix}.qresi_ls.') for name in state):
    return _count(state, rf'{re.escape(prefix)}\.qresi_ls\.(\d+)\.')
  if any(name.startswith(f'{prefix}.qresi.') for name in state):
    return 1
  if any(re.match(rf'{re.escape(prefix)}\.\d+\.', name) for name in state):
    return 0
  return None


def _heads(state: State, width: int, given: Mapping[str, Any]) -> int:
  name = 'blocks.0.attn.scale_mul_1H11'
  if name in state:
    return _shape(state, name, 4)[1]
  if 'num_heads' in given:
    heads = int(given['num_heads'])
    if heads < 1 or width % heads:
      raise errors.ConfigError(
        f'num_heads={heads}: must divide {width}, the width of '
        'word_embed.weight'
      )
    return heads
  if width % HEAD_SIZE:
    raise errors.ConfigError(
      f'num_heads: must be given; without {name} it is width / {HEAD_SIZE}, '
      f'and word_embed.weight has width {width}'
    )
  return width // HEAD_SIZE


def _schedule(
  state: State, patch_nums: Sequence[Grid] | None
) -> tuple[Grid, ...]:
  length = _shape(state, 'pos_1LC', 3)[1]
  levels = _shape(state, 'lvl_embed.weight', 2)[0]
  first = _shape(state, 'pos_start', 3)[1]
  if patch_nums is None:
    patch_nums = _squares(state) or SCHEDULES.get(length)
  if patch_nums is None:
    raise errors.ConfigError(
      f'patch_nums: must be given; pos_1LC has {length} positions, and only '
      f'{", ".join(map(str, SCHEDULES))} belong to a known schedule'
    )
  grids = tuple(
    int(g) if np.ndim(g) == 0 else tuple(int(n) for n in g)  # type: ignore
    for g in patch_nums
  )
  sizes = [g * g if isinstance(g, int) else math.prod(g) for g in grids]
  for name, found, wanted, what in (
    ('pos_1LC', length, sum(sizes), 'positions'),
    ('lvl_embed.weight', levels, len(sizes), 'scales'),
    ('pos_start', first, (sizes or [0])[0], 'positions of the first scale'),
  ):
    if found != wanted:
      raise errors.CheckpointError(
        f'{name}: has {found} {what}, patch_nums={list(grids)} has {wanted}'
      )
  return grids


def _squares(state: State) -> tuple[int, ...] | None:
  """The sides of square scales, from the scale index of each position."""
  if 'lvl_1L' not in state:
    return None
  level = np.asarray(state['lvl_1L']).ravel()
  if level.dtype.kind not in 'iu' or np.any(np.diff(level) < 0):
    return None
  _, sizes = np.unique(level, return_counts=True)
  sides = [math.isqrt(int(size)) for size in sizes]
  if any(side * side != size for side, size in zip(sides, sizes, strict=True)):
    return None
  return tuple(sides)


def _check_groups(config: Mapping[str, Any]) -> None:
  for multiplier in config['ch_mult']:
    channels = config['ch'] * multiplier
    if channels % config['norm_groups']:
      raise errors.ConfigError(
        f'norm_groups={config["norm_groups"]}: must divide the {channels} '
        'channels of the tokenizer; give the value it was trained with'
      )


def _count(state: State, pattern: str) -> int:
  """How many numbered modules there are, which must be 0, 1, 2, ..."""
  matches = [re.match(pattern, name) for name in state]
  found = sorted({int(match[1]) for match in matches if match})
  if not found or found != list(range(len(found))):
    shown = re.sub(r'\\(.)', r'\1', pattern).replace('(d+)', '#')
    raise errors.CheckpointError(
      f'{shown}: the numbers # must be 0, 1, 2, ... without a gap, found '
      f'{found[:8]}'
    )
  return len(found)


def _shape(state: State, name: str, rank: int) -> tuple[int, ...]:
  if name not in state:
    raise errors.CheckpointError(
      f'{name}: missing from the official state dict'
    )
  shape = tuple(np.shape(state[name]))
  if len(shape) != rank or 0 in shape:
    raise errors.CheckpointError(
      f'{name}: has shape {shape}; it needs {rank} axes and no empty one'
    )
  return shape

"""Weights of the official PyTorch VAR, in and out, bit for bit.

Source of the names: FoundationVision/VAR, `models/var.py`. Linear weights
are (out, in) there and [in, out] here; blocks are numbered there and
stacked along a leading axis here. Nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from flax.core import meta
import numpy as np

from varjax import errors
from varjax.models import norm
from varjax.spec import ModelSpec
from varjax.types import Layout, PyTree

# Recomputed from the configuration; in checkpoints but not parameters.
_BUFFERS = ('lvl_1L', 'attn_bias_for_masking', '.attn.zero_k_bias')

# Our path: (official name, kind). `#` is the number of a block.
_COMMON = {
  'embed/word/kernel': ('word_embed.weight', 'linear'),
  'embed/word/bias': ('word_embed.bias', 'plain'),
  'embed/classes/embedding': ('class_emb.weight', 'plain'),
  'embed/level': ('lvl_embed.weight', 'plain'),
  'embed/start': ('pos_start', 'batched'),
  'embed/pos': ('pos_1LC', 'batched'),
  'blocks/attention/qkv/kernel': ('blocks.#.attn.mat_qkv.weight', 'fused'),
  'blocks/attention/q_bias': ('blocks.#.attn.q_bias', 'plain'),
  'blocks/attention/v_bias': ('blocks.#.attn.v_bias', 'plain'),
  'blocks/attention/proj/kernel': ('blocks.#.attn.proj.weight', 'linear'),
  'blocks/attention/proj/bias': ('blocks.#.attn.proj.bias', 'plain'),
  'blocks/mlp/fc1/kernel': ('blocks.#.ffn.fc1.weight', 'linear'),
  'blocks/mlp/fc1/bias': ('blocks.#.ffn.fc1.bias', 'plain'),
  'blocks/mlp/fc2/kernel': ('blocks.#.ffn.fc2.weight', 'linear'),
  'blocks/mlp/fc2/bias': ('blocks.#.ffn.fc2.bias', 'plain'),
  'head/adaln/kernel': ('head_nm.ada_lin.1.weight', 'linear'),
  'head/adaln/bias': ('head_nm.ada_lin.1.bias', 'plain'),
  'head/logits/kernel': ('head.weight', 'linear'),
  'head/logits/bias': ('head.bias', 'plain'),
}
_L2_NORM = {
  'blocks/attention/scale': ('blocks.#.attn.scale_mul_1H11', 'heads'),
}
_OWN = {
  'adaln/kernel': ('blocks.#.ada_lin.1.weight', 'linear'),
  'adaln/bias': ('blocks.#.ada_lin.1.bias', 'plain'),
}
_SHARED = {
  'adaln/kernel': ('shared_ada_lin.1.weight', 'linear'),
  'adaln/bias': ('shared_ada_lin.1.bias', 'plain'),
  'adaln/gss': ('blocks.#.ada_gss', 'chunks'),
}


def spec_from_config(config: Mapping[str, Any], **overrides: Any) -> ModelSpec:
  """Reads the constructor arguments of an official VAR.

  Args:
    config: with `depth`, `embed_dim`, `num_heads`, `num_classes`, and
      optionally `mlp_ratio` (4), `attn_l2_norm` (true), `shared_aln`
      (false), `drop_path_rate` (0), `cond_drop_rate` (0.1).
    **overrides: fields of `ModelSpec` that upstream does not have.

  Raises:
    ConfigError: a required key is missing, or `norm_eps` is not 1e-6.
  """
  missing = [
    key
    for key in ('depth', 'embed_dim', 'num_heads', 'num_classes')
    if key not in config
  ]
  if missing:
    raise errors.ConfigError(f'official config: {missing[0]} is missing')
  eps = float(config.get('norm_eps', norm.EPS))
  if eps != norm.EPS:
    raise errors.ConfigError(
      f'official config: norm_eps={eps} must be {norm.EPS}, which every '
      'released model has'
    )
  fields = {
    'depth': config['depth'],
    'width': config['embed_dim'],
    'heads': config['num_heads'],
    'num_classes': config['num_classes'],
    'mlp_ratio': float(config.get('mlp_ratio', 4.0)),
    'l2_norm': bool(config.get('attn_l2_norm', True)),
    'shared_adaln': bool(config.get('shared_aln', False)),
    'drop_path': float(config.get('drop_path_rate', 0.0)),
    'label_drop': float(config.get('cond_drop_rate', 0.1)),
  }
  return ModelSpec(**(fields | overrides))


def names(spec: ModelSpec) -> dict[str, tuple[str, str]]:
  """Our parameter paths with (official name, kind), for one model."""
  adaln = _SHARED if spec.shared_adaln else _OWN
  return _COMMON | adaln | (_L2_NORM if spec.l2_norm else {})


def from_official(
  spec: ModelSpec, layout: Layout, state: Mapping[str, np.ndarray]
) -> PyTree:
  """Official state dict to our parameters.

  Args:
    spec: the network.
    layout: of the order, for the shapes of the tables.
    state: name to array; buffers may be present.

  Returns:
    Nested dict of float32 NumPy arrays: the 'params' collection.

  Raises:
    CheckpointError: a tensor is missing, superfluous, or of another shape.
  """
  params: dict[str, Any] = {}
  used = set()
  for path, (name, kind) in names(spec).items():
    numbered = [name]
    if '#' in name:
      numbered = [name.replace('#', str(i)) for i in range(spec.depth)]
    used.update(numbered)
    leaves = [
      _import(_get(state, n), kind, _shape(path, spec, layout), n)
      for n in numbered
    ]
    value = np.stack(leaves) if '#' in name else leaves[0]
    _set(params, path, value)
  for name in state:
    if name not in used and not name.endswith(_BUFFERS):
      raise errors.CheckpointError(
        f'{name}: this tensor of the official state dict has no place in a '
        f'model of depth {spec.depth}, l2_norm={spec.l2_norm}, '
        f'shared_adaln={spec.shared_adaln}'
      )
  return params


def to_official(
  spec: ModelSpec, layout: Layout, params: PyTree
) -> dict[str, np.ndarray]:
  """Our parameters to an official state dict, buffers included.

  Args:
    spec: the network.
    layout: of a next-scale order.
    params: the 'params' collection, boxed or plain.

  Raises:
    CheckpointError: a parameter is missing or of another shape.
  """
  params = meta.unbox(params)
  state = {}
  for path, (name, kind) in names(spec).items():
    value = _find(params, path)
    expected = _shape(path, spec, layout)
    per_block = '#' in name
    if per_block:
      expected = (spec.depth, *expected)
    if value.shape != expected:
      raise errors.CheckpointError(
        f'{path}: has shape {value.shape}, the model needs {expected}'
      )
    for i, leaf in enumerate(value if per_block else [value]):
      state[name.replace('#', str(i))] = _export(leaf, kind)
  return state | _buffers(spec, layout)


def _buffers(spec: ModelSpec, layout: Layout) -> dict[str, np.ndarray]:
  sizes = layout.block_sizes or ()
  level = np.repeat(np.arange(len(sizes)), sizes)[None]
  sees = level[0][:, None] >= level
  bias = np.where(sees, np.float32(0), np.float32(-np.inf))
  state = {'lvl_1L': level, 'attn_bias_for_masking': bias[None, None]}
  for i in range(spec.depth):
    zero = np.zeros(spec.width, np.float32)
    state[f'blocks.{i}.attn.zero_k_bias'] = zero
  return state


def _shape(path: str, spec: ModelSpec, layout: Layout) -> tuple[int, ...]:
  """Our shape of one block's (or the only) tensor."""
  width, hidden = spec.width, round(spec.width * spec.mlp_ratio)
  return {
    'embed/word/kernel': (layout.input_dim, width),
    'embed/classes/embedding': (spec.num_classes + 1, width),
    'embed/level': (layout.num_steps, width),
    'embed/start': (layout.start, width),
    'embed/pos': (layout.num_positions, width),
    'blocks/attention/qkv/kernel': (width, 3, width),
    'blocks/attention/proj/kernel': (width, width),
    'blocks/attention/scale': (spec.heads,),
    'blocks/mlp/fc1/kernel': (width, hidden),
    'blocks/mlp/fc1/bias': (hidden,),
    'blocks/mlp/fc2/kernel': (hidden, width),
    'adaln/kernel': (width, 6 * width),
    'adaln/bias': (6 * width,),
    'adaln/gss': (6, width),
    'head/adaln/kernel': (width, 2 * width),
    'head/adaln/bias': (2 * width,),
    'head/logits/kernel': (width, layout.vocab),
    'head/logits/bias': (layout.vocab,),
  }.get(path, (width,))


def _import(
  value: np.ndarray, kind: str, expected: tuple[int, ...], name: str
) -> np.ndarray:
  official = _official_shape(expected, kind)
  if value.shape != official:
    raise errors.CheckpointError(
      f'{name}: has shape {value.shape}, the model needs {official}'
    )
  if kind in ('linear', 'fused'):
    value = value.T
  value = value.reshape(expected)
  return np.ascontiguousarray(value, np.float32)


def _export(value: np.ndarray, kind: str) -> np.ndarray:
  value = np.asarray(value)
  if kind in ('linear', 'fused'):
    return np.ascontiguousarray(value.reshape(len(value), -1).T)
  return value.reshape(_official_shape(value.shape, kind))


def _official_shape(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
  return {
    'plain': shape,
    'linear': shape[::-1],
    'fused': (math.prod(shape[1:]), shape[0]),
    'batched': (1, *shape),
    'chunks': (1, 1, *shape),
    'heads': (1, *shape, 1, 1),
  }[kind]


def _get(state: Mapping[str, np.ndarray], name: str) -> np.ndarray:
  if name not in state:
    raise errors.CheckpointError(
      f'{name}: missing from the official state dict'
    )
  return np.asarray(state[name])


def _find(params: PyTree, path: str) -> np.ndarray:
  node = params
  for key in path.split('/'):
    if key not in node:
      raise errors.CheckpointError(f'{path}: missing from the parameters')
    node = node[key]
  return np.asarray(node)


def _set(params: dict[str, Any], path: str, value: np.ndarray) -> None:
  *parents, leaf = path.split('/')
  for key in parents:
    params = params.setdefault(key, {})
  params[leaf] = value

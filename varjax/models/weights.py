"""Weights as a sampler keeps them: in the compute type, or as int8.

Training keeps float32 weights and rounds them in every product. A sampler
reads each weight once per step and changes none, so it rounds them once:
what it reads is then half the bytes, or a quarter. What computes in float32
(embeddings, norms, the AdaLN before the head) stays float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from varjax.models import quantised
from varjax.types import PyTree

# Axis over which the product of a block sums, after the 'layers' axis.
_OF_BLOCKS = {'qkv': 1, 'proj': 1, 'fc1': 1, 'fc2': 1}
# Weights that are rounded by `astype` where they are used.
_ROUNDED = ('kernel', 'bias', 'q_bias', 'v_bias', 'gss')


def stored(params: PyTree, compute_dtype: str, kind: str = '') -> PyTree:
  """The transformer's weights as a sampler keeps them.

  Args:
    params: unboxed 'params' collection.
    compute_dtype: of the model.
    kind: 'int8' makes a `Quantised` of the kernels of the blocks, of their
      AdaLN and of the classifier; '' keeps all in the compute type.

  Returns:
    A tree that the model takes as its weights. Under float32 and '' it is
    `params`.
  """

  def keep(path, weight):
    names = tuple(key.key for key in path)
    axis = _input_axis(names)
    if kind == 'int8' and axis is not None:
      return quantised.of_kernel(weight, axis)
    return weight.astype(compute_dtype) if _is_rounded(names) else weight

  if not kind and jnp.dtype(compute_dtype) == jnp.float32:
    return params
  return jax.tree_util.tree_map_with_path(keep, params)


def rounded_blocks(params: PyTree, compute_dtype: str) -> PyTree:
  """The weights with the kernels of the blocks in the compute type.

  For an update: every product of a scanned block would round its kernel,
  forwards, backwards and where the block is computed again, and stack a
  gradient in float32 that has no more digits than the compute type's.

  Args:
    params: unboxed 'params' collection, float32.
    compute_dtype: of the model; under float32 nothing changes.
  """

  def keep(path, weight):
    names = tuple(key.key for key in path)
    if 'blocks' in names and names[-1] == 'kernel':
      return weight.astype(compute_dtype)
    return weight

  if jnp.dtype(compute_dtype) == jnp.float32:
    return params
  return jax.tree_util.tree_map_with_path(keep, params)


def _input_axis(names: tuple[str, ...]) -> int | None:
  """Over which a kernel's product sums; None if int8 is not for it."""
  if names[-1] != 'kernel':
    return None
  if 'blocks' in names:  # Those of a depth transformer lie in the head.
    return _OF_BLOCKS[names[-2]]
  return {'adaln': -2, 'head/logits': 0}.get('/'.join(names[:-1]))


def _is_rounded(names: tuple[str, ...]) -> bool:
  """Whether the model rounds a weight to the compute type."""
  if names == ('head', 'logits', 'kernel'):
    return True
  inside = 'blocks' in names or names[0] == 'adaln'
  norms = any(name.startswith('norm') for name in names)
  return inside and not norms and names[-1] in _ROUNDED

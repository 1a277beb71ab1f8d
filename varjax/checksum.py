"""Fingerprints of arrays, so that damaged checkpoints are noticed.

Tensorstore finds truncated files but not flipped bits. The fingerprint of
an array is a sum over its elements, modulo 2^32, of their bits mixed with
their index. A sum of integers is the same in any order, so any mesh, and
NumPy, agree; the mix is a bijection, so one wrong element always shows.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from varjax.types import PyTree

_ODD_1, _ODD_2 = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77)
_UNSIGNED = {1: 'uint8', 2: 'uint16', 4: 'uint32'}


def fingerprints(tree: PyTree) -> dict[str, int]:
  """The fingerprint of each leaf, by its path ('params/head/kernel').

  Args:
    tree: NumPy arrays, or JAX arrays, which are summed where they live.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  sums = jax.device_get([_sum_bits(leaf) for _, leaf in leaves])
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): int(total)
    for (path, _), total in zip(leaves, sums, strict=True)
  }


def _sum_bits(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
  if isinstance(x, jax.Array) and not _on_host(x):
    return _sum_bits_jax(x)
  x = np.ascontiguousarray(x)
  bits = x.view(_UNSIGNED[x.dtype.itemsize]).ravel()
  return _sum_mixed(bits, np.arange(bits.size, dtype=np.uint32), np)


def _on_host(x: jax.Array) -> bool:
  """True where NumPy can sum without a compilation or a transfer."""
  devices = x.devices()
  return len(devices) == 1 and next(iter(devices)).platform == 'cpu'


@jax.jit
def _sum_bits_jax(x: jax.Array) -> jax.Array:
  unsigned = _UNSIGNED[x.dtype.itemsize]
  if x.dtype == jnp.bool_:
    bits = x.astype(unsigned)
  else:
    bits = jax.lax.bitcast_convert_type(x, unsigned)
  # The row-major index, axis by axis: flattening would move sharded data.
  index = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    index = index * np.uint32(size % 2**32)
    index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  return _sum_mixed(bits, index, jnp)


def _sum_mixed(bits: Any, index: Any, xp: Any) -> Any:
  """Sum of a bijective mix of each element's bits with its index."""
  mixed = (bits.astype(np.uint32) ^ (index * _ODD_1)) * _ODD_2
  mixed = (mixed ^ (mixed >> np.uint32(15))) * _ODD_1
  return xp.sum(mixed ^ (mixed >> np.uint32(13)), dtype=np.uint32)

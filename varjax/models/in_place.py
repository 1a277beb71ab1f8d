"""The blocks of a sampler's step, their weights read where they lie.

A scan over layers hands its body a slice of every weight, which a product
of XLA's needs as an array of its own: in a step of few rows the copies take
longer than the products. Here the body gets the whole stack besides, and the
number of its layer. The cache is read in the same way.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from varjax.models import attention, placement
from varjax.models.block import Block
from varjax.models.cache import Cache
from varjax.models.product import InPlace
from varjax.models.quantised import Quantised
from varjax.spec import ModelSpec
from varjax.types import PyTree


def serves(x: jax.Array) -> bool:
  """Whether there are kernels that read a stack, for such rows."""
  return attention.on_gpu() and x.dtype != jnp.float32 and placement.alone()


def run(
  spec: ModelSpec,
  weights: PyTree,
  x: jax.Array,
  modulation: jax.Array | None,
  rates: jax.Array,
  prefix: Cache | None,
  *everywhere: Any,
) -> tuple[jax.Array, Any]:
  """What a call of `stacked(spec)` returns, without training.

  Args:
    spec: the blocks.
    weights: of all layers, with a leading axis, as `weights.stored` keeps
      them.
    x, modulation, rates, prefix, *everywhere: of that call.
  """
  block = Block(spec, parent=None)

  def body(x, given):
    index, layer, *scanned = given
    past = None if prefix is None else prefix.replace(layer=index)
    layer = jax.tree_util.tree_map_with_path(
      lambda path, part, whole: _in_place(path, part, whole, index, x.dtype),
      layer,
      weights,
      is_leaf=_quantised,
    )
    return block.apply({'params': layer}, x, *scanned, past, *everywhere)

  indices = jnp.arange(spec.depth, dtype=jnp.int32)
  return lax.scan(
    body,
    x,
    (indices, weights, modulation, rates),
    unroll=1 if spec.scan else spec.depth,
  )


def _in_place(path, part, whole, index, dtype) -> jax.Array | InPlace:
  if _quantised(whole) or (path[-1].key == 'kernel' and whole.dtype == dtype):
    return InPlace(part, whole, index)
  return part


def _quantised(leaf) -> bool:
  return isinstance(leaf, Quantised)

"""A step of a sampler against its cache, on NVIDIA GPUs.

The cache is read where it lies, among those of all layers, and no further
than it is filled; int8 is turned back in registers. Joining it to the keys of
the step before would read and write all of it. With few images and heads the
keys are split over programs, so that a whole device reads them, and the parts
are joined by their softmax denominators (Flash-Decoding; Dao et al., 2023,
"Flash-Decoding for long-context inference").
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.models import placement
from varjax.models.flash import block_causal, forward, softmax, views
from varjax.models.flash.tiles import Tile, fit
from varjax.models.launch import launch

# Two for each of the 132 multiprocessors of an H100.
_PROGRAMS = 264
_TILE = Tile(64, 64, warps=4, stages=3)
# Of keys, that a program has at the least: the parts of shorter ones would
# cost more launches to join than they save.
_TILES = 8
# Axes of a cache and of its scales.
_CACHE, _SCALES = (
  (None, 'batch', None, 'heads', None),
  (None, 'batch', None, 'heads'),
)


class Past(NamedTuple):
  """Keys and values of the steps before, of all layers."""

  k: jax.Array  # [depth, B, M, N, A], int8 or as the queries
  v: jax.Array  # [depth, B, M, N, A]
  k_scale: jax.Array | None  # [depth, B, M, N] float32, under int8
  v_scale: jax.Array | None
  layer: jax.Array | int  # Which is read.


def attend(
  q: Float[Array, 'B T N A'],
  k: Float[Array, 'B T N A'],
  v: Float[Array, 'B T N A'],
  past: Past,
  *,
  scale: float,
  visible: int | Int[Array, ''],
  interpret: bool = False,
  tile: Tile = _TILE,
  programs: int = _PROGRAMS,
  tiles: int = _TILES,
) -> Float[Array, 'B T N A']:
  """Every query against what the cache is filled with and all k of the step.

  Args:
    q, k, v: of the step.
    past: the cache.
    scale: of the logits before the softmax, positive.
    visible: rows of the cache that are filled. Static, the others cost
      nothing at all.
    interpret: run the kernel as ordinary operations.
    tile: shape of the tiles, cut to the lengths.
    programs: to split the work of one device into, at the least, while each
      still has `tiles` of keys.

  Returns:
    The attended values, in the type of v.

  Raises:
    ConfigError: heads or images that do not divide over the mesh in use.
  """
  most = visible if isinstance(visible, int) else past.k.shape[2]
  numbers = [
    jnp.asarray(x, jnp.int32).reshape(1) for x in (visible, past.layer)
  ]
  arguments = [q, k, v, past.k, past.v, *numbers]
  axes = [*(block_causal.AXES,) * 3, _CACHE, _CACHE, (None,), (None,)]
  if past.k_scale is not None:
    arguments += [past.k_scale, past.v_scale]
    axes += [_SCALES, _SCALES]
  local = functools.partial(
    _attend,
    most=most,
    scale=scale,
    interpret=interpret,
    tile=fit(tile, q.shape[1], max(most, q.shape[1])),
    programs=programs,
    tiles=tiles,
  )
  return placement.run(local, arguments, axes, name='flash')


def _attend(
  q,
  k,
  v,
  past_k,
  past_v,
  visible,
  layer,
  *scales,
  most,
  scale,
  interpret,
  tile,
  programs,
  tiles,
) -> jax.Array:
  """The kernel on the arrays of one device, and the join of its parts."""
  batch, length, heads, head_size = q.shape
  rows = pl.cdiv(length, tile.queries)
  # Tiles of the cache come first, then those of the step.
  before, own = pl.cdiv(most, tile.keys), pl.cdiv(length, tile.keys)
  splits = pl.cdiv(programs, rows * heads * batch)
  splits = max(1, min((before + own) // tiles, splits))
  each = pl.cdiv(before + own, splits)
  splits = pl.cdiv(before + own, each)
  step = views.head(length, head_size)
  rows_view, numbers = (
    views.of_split(view)
    for view in (views.head(length, head_size), views.row_numbers(length))
  )
  dtype = v.dtype if splits == 1 else jnp.float32
  parts, logs = launch(
    functools.partial(
      _kernel, scale=scale, tile=tile, each=each, before=before
    ),
    (rows, splits, heads, batch),
    [
      (q, step), (k, step), (v, step),
      (past_k, views.head_of_layers(past_k.shape)),
      (past_v, views.head_of_layers(past_v.shape)),
      (visible, views.shared(1)), (layer, views.shared(1)),
      *((x, views.numbers_of_layers(x.shape)) for x in scales),
    ],
    [
      (jax.ShapeDtypeStruct((splits, *q.shape), dtype), rows_view),
      (
        jax.ShapeDtypeStruct((splits, batch, heads, length), jnp.float32),
        numbers,
      ),
    ],
    warps=tile.warps,
    stages=tile.stages,
    interpret=interpret,
    name='flash_cached',
  )  # fmt: skip
  if splits == 1:
    return parts[0]
  # Parts of nothing have the logarithm -inf, and no share.
  shares = jnp.exp2(logs - jnp.max(logs, axis=0, keepdims=True))
  shares = shares / jnp.sum(shares, axis=0, keepdims=True)
  return jnp.einsum('sbnl,sblna->blna', shares, parts).astype(v.dtype)


def _kernel(
  q_ref,
  k_ref,
  v_ref,
  past_k_ref,
  past_v_ref,
  visible_ref,
  layer_ref,
  *refs,
  scale,
  tile,
  each,
  before,
):
  *scale_refs, out_ref, log_ref = refs
  k_scale_ref, v_scale_ref = scale_refs or (None, None)
  length, head_size = q_ref.shape
  begin, end = forward.bounds_of_queries(length, tile.queries)
  q = softmax.load_rows(q_ref, begin, tile.queries, end)
  visible, layer = visible_ref[0], layer_ref[0]
  row = softmax.LOG2_E * scale

  def absorb(state, k, v, first, stop):
    products = softmax.matmul(q, k, turned=True)
    seen = first + jnp.arange(tile.keys) < stop
    products = jnp.where(seen[None], products, -jnp.inf)
    return softmax.absorb(state, products, row, v)

  def of_past(j, state):
    first = j * tile.keys
    k, v = (
      _load(ref, scales, layer, first, tile.keys, visible).astype(q.dtype)
      for ref, scales in ((past_k_ref, k_scale_ref), (past_v_ref, v_scale_ref))
    )
    return absorb(state, k, v, first, visible)

  def of_step(j, state):
    first = (j - before) * tile.keys
    k, v = (
      softmax.load_rows(ref, first, tile.keys, length) for ref in (k_ref, v_ref)
    )
    return absorb(state, k, v, first, length)

  lowest = pl.program_id(1) * each
  highest = jnp.minimum(lowest + each, before + pl.cdiv(length, tile.keys))
  filled = softmax.ceil_div(visible, tile.keys)
  state = softmax.start(tile.queries, head_size)
  state = lax.fori_loop(lowest, jnp.minimum(filled, highest), of_past, state)
  state = lax.fori_loop(jnp.maximum(before, lowest), highest, of_step, state)
  total, most, acc = state
  none = total == 0
  out = acc / jnp.where(none, 1.0, total)[:, None]
  log = jnp.where(none, -jnp.inf, most * row + jnp.log2(total))
  softmax.store_rows(out_ref, begin, end, out)
  softmax.store_rows(log_ref, begin, end, log)


def _load(ref, scale_ref, layer, first, rows: int, end) -> jax.Array:
  """Rows of a layer's cache; int8 as float32."""
  at = pl.ds(first, rows)
  inside = first + jnp.arange(rows) < end
  values = triton.load(
    ref.at[layer, at, :], mask=inside[:, None], other=jnp.zeros((), ref.dtype)
  )
  if scale_ref is None:
    return values
  scale = triton.load(scale_ref.at[layer, at], mask=inside, other=0.0)
  return values.astype(jnp.float32) * scale[:, None]

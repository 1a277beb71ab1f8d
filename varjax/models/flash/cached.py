"""A step of a sampler against a cache that fills up, on NVIDIA GPUs.

Only the filled part of the cache is read. With few images and heads the keys
are split over programs, so that a whole device reads them, and the parts are
joined by their softmax denominators (Flash-Decoding; Dao et al., 2023,
"Flash-Decoding for long-context inference").
"""

from __future__ import annotations

import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.models import placement
from varjax.models.flash import block_causal, forward, softmax, views
from varjax.models.flash.launch import launch
from varjax.models.flash.tiles import Tile, fit

# Two for each of the 132 multiprocessors of an H100.
_PROGRAMS = 264
_TILE = Tile(64, 64, warps=4, stages=3)


def attend(
  q: Float[Array, 'B T N A'],
  k: Float[Array, 'B M N A'],
  v: Float[Array, 'B M N A'],
  *,
  scale: float,
  visible: Int[Array, ''],
  interpret: bool = False,
  tile: Tile = _TILE,
  programs: int = _PROGRAMS,
) -> Float[Array, 'B T N A']:
  """Every query against the first `visible` keys and the last T.

  Args:
    q: queries of the step.
    k, v: all rows of the cache followed by those of the step.
    scale: of the logits before the softmax, positive.
    visible: rows of the cache that are filled, at most M - T.
    interpret: run the kernel as ordinary operations.
    tile: shape of the tiles, cut to the lengths.
    programs: to split the work of one device into, at the least, while each
      still has a tile of keys.

  Returns:
    The attended values, in the type of v.

  Raises:
    ConfigError: heads or images that do not divide over the mesh in use.
  """
  local = functools.partial(
    _attend,
    scale=scale,
    interpret=interpret,
    tile=fit(tile, q.shape[1], k.shape[1]),
    programs=programs,
  )
  visible = jnp.asarray(visible, jnp.int32).reshape(1)
  axes = (*(block_causal.AXES,) * 3, (None,))
  return placement.run(local, (q, k, v, visible), axes, name='flash')


def _attend(q, k, v, visible, *, scale, interpret, tile, programs) -> jax.Array:
  """The kernel on the arrays of one device, and the join of its parts."""
  batch, length, heads, head_size = q.shape
  keys = k.shape[1]
  rows, columns = pl.cdiv(length, tile.queries), pl.cdiv(keys, tile.keys)
  splits = min(columns, pl.cdiv(programs, rows * heads * batch))
  each = pl.cdiv(columns, splits)
  cache = views.head(keys, head_size)
  rows_view, numbers = (
    views.of_split(view)
    for view in (views.head(length, head_size), views.row_numbers(length))
  )
  dtype = v.dtype if splits == 1 else jnp.float32
  parts, logs = launch(
    functools.partial(_kernel, scale=scale, tile=tile, each=each),
    (rows, splits, heads, batch),
    [
      (q, views.head(length, head_size)), (k, cache), (v, cache),
      (visible, views.shared(1)),
    ],
    [
      (jax.ShapeDtypeStruct((splits, *q.shape), dtype), rows_view),
      (
        jax.ShapeDtypeStruct((splits, batch, heads, length), jnp.float32),
        numbers,
      ),
    ],
    tile=tile,
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
  q_ref, k_ref, v_ref, visible_ref, out_ref, log_ref, *, scale, tile, each
):
  length, head_size = q_ref.shape
  keys = k_ref.shape[0]
  own = keys - length  # Where the keys of the step begin.
  begin, end = forward.bounds_of_queries(length, tile.queries)
  q = softmax.load_rows(q_ref, begin, tile.queries, end)
  visible = visible_ref[0]
  row = softmax.LOG2_E * scale

  def body(j, state):
    first = j * tile.keys
    k = softmax.load_rows(k_ref, first, tile.keys, keys)
    v = softmax.load_rows(v_ref, first, tile.keys, keys)
    at = first + jnp.arange(tile.keys)
    seen = (at < visible) | ((at >= own) & (at < keys))
    products = softmax.matmul(q, k, turned=True)
    products = jnp.where(seen[None], products, -jnp.inf)
    return softmax.absorb(state, products, row, v)

  lowest = pl.program_id(1) * each
  highest = jnp.minimum(lowest + each, pl.cdiv(keys, tile.keys))
  filled = softmax.ceil_div(visible, tile.keys)
  # One tile may hold the end of the filled part and the step's first keys.
  resumed = jnp.maximum(filled, own // tile.keys)
  state = softmax.start(tile.queries, head_size)
  state = lax.fori_loop(lowest, jnp.minimum(filled, highest), body, state)
  state = lax.fori_loop(jnp.maximum(resumed, lowest), highest, body, state)
  total, most, acc = state
  none = total == 0
  out = acc / jnp.where(none, 1.0, total)[:, None]
  log = jnp.where(none, -jnp.inf, most * row + jnp.log2(total))
  softmax.store_rows(out_ref, begin, end, out)
  softmax.store_rows(log_ref, begin, end, log)

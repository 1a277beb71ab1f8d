"""The forward kernel: outputs, and log2 of the softmax's denominator."""

from __future__ import annotations

import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from varjax.models.flash import softmax, views
from varjax.models.flash.tiles import Tile
from varjax.models.launch import launch


def forward(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  limits: jax.Array,
  inverses: tuple[jax.Array, jax.Array] | None,
  head_scale: jax.Array | None,
  *,
  scale: float,
  tile: Tile,
  interpret: bool,
) -> tuple[jax.Array, ...]:
  """Attends on one device.

  Args:
    q: [B, L, N, A]; k, v: [B, M, N, A]. Or each of them the array of all
      three, [B, L, 3, N, A].
    limits: int32 [L], how many keys each query sees.
    inverses: of cosine attention, 1 / |q| as float32 [B, N, L] and 1 / |k|
      as [B, N, M].
    head_scale: of cosine attention, float32 [N].
    scale: of the logits, otherwise.
    tile: fits the lengths.
    interpret: run as ordinary operations.

  Returns:
    The attended values in the type of v, and float32 [B, N, L].
  """
  batch, length, *_, heads, head_size = q.shape
  rows, numbers = views.head(length, head_size), views.row_numbers(length)
  qkv = zip((q, k, v), views.parts(q, k, v), strict=True)
  unit = views.cosine(inverses, head_scale)
  return launch(
    functools.partial(_kernel, cosine=bool(unit), scale=scale, tile=tile),
    (pl.cdiv(length, tile.queries), heads, batch),
    [*qkv, (limits, views.shared(length)), *unit],
    [
      (jax.ShapeDtypeStruct((batch, length, heads, head_size), v.dtype), rows),
      (jax.ShapeDtypeStruct((batch, heads, length), jnp.float32), numbers),
    ],
    warps=tile.warps,
    stages=tile.stages,
    interpret=interpret,
    name='flash_forward',
  )


def bounds_of_queries(length: int, size: int) -> tuple[jax.Array, jax.Array]:
  """First row and end of this program's query tile, laid from the end."""
  after = pl.num_programs(0) - 1 - pl.program_id(0)
  end = length - after * size
  return jnp.maximum(end - size, 0), end


def _kernel(q_ref, k_ref, v_ref, limits_ref, *refs, cosine, scale, tile):
  *unit_refs, out_ref, log_ref = refs
  length, head_size = q_ref.shape
  keys = k_ref.shape[0]
  begin, end = bounds_of_queries(length, tile.queries)
  q = softmax.load_rows(q_ref, begin, tile.queries, end)
  # Rows beyond the end are never stored; they see a key, to stay finite.
  limit = softmax.load_vector(limits_ref, begin, tile.queries, end, 1)
  row, column_ref = softmax.LOG2_E * scale, None
  if cosine:
    inverse_ref, column_ref, scale_ref = unit_refs
    inverse = softmax.load_vector(inverse_ref, begin, tile.queries, end, 1.0)
    row = inverse * (scale_ref[0] * softmax.LOG2_E)

  def body(j, state, cut: bool):
    first = j * tile.keys
    products, _, _ = products_seen(
      q, k_ref, column_ref, limit, first, tile.keys, cut
    )
    v = softmax.load_rows(v_ref, first, tile.keys, keys if cut else None)
    return softmax.absorb(state, products, row, v)

  state = softmax.start(tile.queries, head_size)
  full, last = tiles_seen(limits_ref, begin, end, tile.keys)
  state = lax.fori_loop(0, full, functools.partial(body, cut=False), state)
  state = lax.fori_loop(full, last, functools.partial(body, cut=True), state)
  out, log = softmax.finish(state, row)
  softmax.store_rows(out_ref, begin, end, out)
  softmax.store_rows(log_ref, begin, end, log)


def products_seen(
  q: jax.Array,
  k_ref,
  column_ref,
  limit: jax.Array,
  first: jax.Array,
  size: int,
  cut: bool,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Products of a query tile with a tile of keys; what is not seen is -inf.

  Args:
    q: [rows, A].
    k_ref: of all keys of the head, [M, A].
    column_ref: of cosine attention, 1 / |k|, [M]; otherwise None.
    limit: how many keys each row sees, [rows].
    first: key that the tile begins with.
    size: keys of the tile.
    cut: whether some row may not see all of the tile.

  Returns:
    float32 [rows, size], without the factor of a row; the keys [size, A];
    their inverse lengths [size], or None.
  """
  keys, column = k_ref.shape[0], None
  k = softmax.load_rows(k_ref, first, size, keys if cut else None)
  products = softmax.matmul(q, k, turned=True)
  if column_ref is not None:
    column = softmax.load_vector(column_ref, first, size, keys, 1.0)
    products *= column[None]
  if cut:
    seen = (first + jnp.arange(size))[None] < limit[:, None]
    products = jnp.where(seen, products, -jnp.inf)
  return products, k, column


def tiles_seen(limits_ref, begin, end, size: int):
  """Key tiles that all rows of a tile see whole, and that any sees at all."""
  least, most = limits_ref[begin], limits_ref[end - 1]
  return lax.div(least, jnp.int32(size)), softmax.ceil_div(most, size)

"""The backward kernels: gradients of the queries; of the keys and values.

Both compute the weights again from the logits and the log of the
denominator. The first also leaves `delta`, the product of each output with
its gradient, for the second. Under cosine attention the gradient of a
normalised row becomes that of the raw row in registers:
d|x| = (g - x^ <x^, g>) / |x|.
"""

from __future__ import annotations

import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from varjax.models.flash import forward, softmax, views
from varjax.models.flash.tiles import Tile
from varjax.models.launch import launch, like

# Of 1 / |x|: shorter rows are divided by a constant, see `norm.unit`.
LONGEST_INVERSE = 0.999e12


def queries(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  out: jax.Array,
  log: jax.Array,
  grad: jax.Array,
  limits: jax.Array,
  inverses: tuple[jax.Array, jax.Array] | None,
  head_scale: jax.Array | None,
  *,
  scale: float,
  tile: Tile,
  interpret: bool,
) -> tuple[jax.Array, ...]:
  """Gradient of the queries; arguments as in `forward.forward`.

  Args:
    out, log: what the forward kernel returned.
    grad: of `out`, [B, L, N, A].

  Returns:
    dq like q, other parts than that of the queries undefined; delta float32
    [B, N, L]; under cosine attention also the gradient of `head_scale` by
    row, float32 [B, N, L].
  """
  batch, length, *_, heads, head_size = q.shape
  rows, numbers = views.head(length, head_size), views.row_numbers(length)
  parts = views.parts(q, k, v)
  unit = views.cosine(inverses, head_scale)
  vector = jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)
  return launch(
    functools.partial(_queries, cosine=bool(unit), scale=scale, tile=tile),
    (pl.cdiv(length, tile.queries), heads, batch),
    [
      *zip((q, k, v), parts, strict=True), (out, rows), (log, numbers),
      (grad, rows), (limits, views.shared(length)), *unit,
    ],
    [(like(q), parts[0]), *[(vector, numbers)] * (2 if unit else 1)],
    warps=tile.warps,
    stages=tile.stages,
    interpret=interpret,
    name='flash_dq',
  )  # fmt: skip


def keys_and_values(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  log: jax.Array,
  delta: jax.Array,
  grad: jax.Array,
  firsts: jax.Array,
  inverses: tuple[jax.Array, jax.Array] | None,
  head_scale: jax.Array | None,
  dqkv: jax.Array | None = None,
  *,
  scale: float,
  tile: Tile,
  interpret: bool,
) -> tuple[jax.Array, ...]:
  """Gradients of keys and values; arguments as in `queries`.

  Args:
    delta: from `queries`.
    firsts: int32 [M], the first query that sees each key.
    dqkv: what `queries` returned, where q, k and v are one array.

  Returns:
    dk, dv like k, v; or `dqkv` with these parts, in the same memory.
  """
  batch, length, *_, heads, head_size = q.shape
  count = k.shape[1]
  rows, numbers = views.head(length, head_size), views.row_numbers(length)
  parts = views.parts(q, k, v)
  inputs = [
    *zip((q, k, v), parts, strict=True), (log, numbers), (delta, numbers),
    (grad, rows), (firsts, views.shared(count)),
    *(unit := views.cosine(inverses, head_scale)),
  ]  # fmt: skip
  outputs, aliases = [(like(k), parts[1]), (like(v), parts[2])], {}
  if dqkv is not None:
    outputs, aliases = [(like(dqkv), views.all_parts(dqkv))], {len(inputs): 0}
    inputs.append((dqkv, views.all_parts(dqkv)))
  kernel = functools.partial(
    _keys_and_values,
    cosine=bool(unit),
    packed=dqkv is not None,
    scale=scale,
    tile=tile,
  )
  return launch(
    kernel,
    (pl.cdiv(count, tile.keys), heads, batch),
    inputs,
    outputs,
    warps=tile.warps,
    stages=tile.stages,
    interpret=interpret,
    name='flash_dkv',
    aliases=aliases,
  )


def _queries(
  q_ref, k_ref, v_ref, out_ref, log_ref, grad_ref, limits_ref, *refs,
  cosine, scale, tile,
):  # fmt: skip
  if cosine:
    inverse_ref, column_ref, scale_ref, dq_ref, delta_ref, dscale_ref = refs
  else:
    dq_ref, delta_ref = refs
    column_ref = None
  length, head_size = q_ref.shape
  keys = k_ref.shape[0]
  begin, end = forward.bounds_of_queries(length, tile.queries)
  rows = functools.partial(
    softmax.load_rows, begin=begin, rows=tile.queries, end=end
  )
  vector = functools.partial(
    softmax.load_vector, begin=begin, rows=tile.queries, end=end
  )
  q, grad = rows(q_ref), rows(grad_ref)
  delta = jnp.sum(
    rows(out_ref).astype(jnp.float32) * grad.astype(jnp.float32), axis=1
  )
  softmax.store_rows(delta_ref, begin, end, delta)
  log = vector(log_ref, other=0.0)
  limit = vector(limits_ref, other=1)
  row = jnp.full(tile.queries, softmax.LOG2_E * scale, jnp.float32)
  if cosine:
    inverse = vector(inverse_ref, other=1.0)
    row = inverse * (scale_ref[0] * softmax.LOG2_E)

  def body(j, dq, cut: bool):
    first = j * tile.keys
    products, k, column = forward.products_seen(
      q, k_ref, column_ref, limit, first, tile.keys, cut
    )
    weights = jnp.exp2(products * row[:, None] - log[:, None])
    v = softmax.load_rows(v_ref, first, tile.keys, keys if cut else None)
    slope = softmax.matmul(grad, v, turned=True) - delta[:, None]
    slope *= weights
    if column is not None:
      slope *= column[None]
    return dq + softmax.matmul(slope.astype(k.dtype), k)

  dq = jnp.zeros((tile.queries, head_size), jnp.float32)
  full, last = forward.tiles_seen(limits_ref, begin, end, tile.keys)
  dq = lax.fori_loop(0, full, functools.partial(body, cut=False), dq)
  dq = lax.fori_loop(full, last, functools.partial(body, cut=True), dq)
  if cosine:
    unit = q.astype(jnp.float32) * inverse[:, None]
    along = jnp.sum(unit * dq, axis=1)
    softmax.store_rows(dscale_ref, begin, end, along)
    dq = _across(dq, unit, along, inverse) * scale_ref[0]
  else:
    dq *= scale
  softmax.store_rows(dq_ref, begin, end, dq)


def _keys_and_values(
  q_ref, k_ref, v_ref, log_ref, delta_ref, grad_ref, firsts_ref, *refs,
  cosine, packed, scale, tile,
):  # fmt: skip
  if packed:
    *unit_refs, _, out_ref = refs
    places = (out_ref, 1), (out_ref, 2)
  else:
    *unit_refs, dk_ref, dv_ref = refs
    places = (dk_ref, None), (dv_ref, None)
  if cosine:
    inverse_ref, column_ref, scale_ref = unit_refs
  length, head_size = q_ref.shape
  keys = k_ref.shape[0]
  begin = pl.program_id(0) * tile.keys
  end = jnp.minimum(begin + tile.keys, keys)
  k = softmax.load_rows(k_ref, begin, tile.keys, end)
  v = softmax.load_rows(v_ref, begin, tile.keys, end)
  first = softmax.load_vector(firsts_ref, begin, tile.keys, end, length)
  if cosine:
    column = softmax.load_vector(column_ref, begin, tile.keys, end, 1.0)
  start = firsts_ref[begin]

  def body(j, state, cut: bool):
    dk, dv = state
    at = start + j * tile.queries
    vector = functools.partial(
      softmax.load_vector, begin=at, rows=tile.queries, end=length
    )
    q = softmax.load_rows(q_ref, at, tile.queries, length)
    grad = softmax.load_rows(grad_ref, at, tile.queries, length)
    # Rows beyond the end weigh nothing, whatever else they hold.
    log = vector(log_ref, other=jnp.inf)
    row = softmax.LOG2_E * scale
    if cosine:
      inverse = vector(inverse_ref, other=1.0)
      row = (inverse * (scale_ref[0] * softmax.LOG2_E))[None]
    products = softmax.matmul(k, q, turned=True)  # [keys, queries]
    if cosine:
      products *= column[:, None]
    if cut:
      seen = (at + jnp.arange(tile.queries))[None] >= first[:, None]
      products = jnp.where(seen, products, -jnp.inf)
    weights = jnp.exp2(products * row - log[None])
    dv += softmax.matmul(weights.astype(grad.dtype), grad)
    slope = softmax.matmul(v, grad, turned=True)
    slope = weights * (slope - vector(delta_ref, other=0.0)[None])
    if cosine:
      slope *= row
    return dk + softmax.matmul(slope.astype(q.dtype), q), dv

  zeros = jnp.zeros((tile.keys, head_size), jnp.float32)
  cut_tiles = softmax.ceil_div(firsts_ref[end - 1] - start, tile.queries)
  all_tiles = softmax.ceil_div(length - start, tile.queries)
  state = lax.fori_loop(
    0, cut_tiles, functools.partial(body, cut=True), (zeros, zeros)
  )
  dk, dv = lax.fori_loop(
    cut_tiles, all_tiles, functools.partial(body, cut=False), state
  )
  if cosine:
    dk *= 1 / softmax.LOG2_E  # `row` has it, for the exponentials.
    unit = k.astype(jnp.float32) * column[:, None]
    dk = _across(dk, unit, jnp.sum(unit * dk, axis=1), column)
  else:
    dk *= scale
  for (ref, part), value in zip(places, (dk, dv), strict=True):
    softmax.store_rows(ref, begin, end, value, part)


def _across(grad, unit, along, inverse) -> jax.Array:
  """Gradient of a raw row out of that of its unit vector, [rows, A]."""
  along = jnp.where(inverse < LONGEST_INVERSE, along, 0.0)
  return (grad - unit * along[:, None]) * inverse[:, None]

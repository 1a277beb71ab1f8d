"""What the kernels share: products, bounded loads, the running softmax.

Logits are `product * row * column`: `row` is the scale (times log2(e), for
exponentials are of base 2) and under cosine attention the inverse length of
the query; `column` is the inverse length of the key. The maximum is taken
before `row` is applied, which is positive, so that it costs no instruction
of its own: `x * row - most * row` is one fused multiply-add.
"""

from __future__ import annotations

import math

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

LOG2_E = math.log2(math.e)
# Sum of weights, maximum so far, weighted values: [rows], [rows], [rows, A].
Running = tuple[jax.Array, jax.Array, jax.Array]


def start(rows: int, head_size: int) -> Running:
  """Before any key."""
  return (
    jnp.zeros(rows, jnp.float32),
    jnp.full(rows, -jnp.inf, jnp.float32),
    jnp.zeros((rows, head_size), jnp.float32),
  )


def absorb(
  state: Running,
  products: jax.Array,
  row: jax.Array | float,
  values: jax.Array,
) -> Running:
  """Adds one tile of keys; every row has seen a key after the first one."""
  total, most, acc = state
  row = jnp.broadcast_to(row, most.shape)
  higher = jnp.maximum(most, jnp.max(products, axis=1))
  fade = jnp.exp2((most - higher) * row)
  weights = jnp.exp2(products * row[:, None] - (higher * row)[:, None])
  total = total * fade + jnp.sum(weights, axis=1)
  acc = acc * fade[:, None] + matmul(weights.astype(values.dtype), values)
  return total, higher, acc


def finish(
  state: Running, row: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
  """The attended values, and log2 of the softmax's denominator."""
  total, most, acc = state
  return acc / total[:, None], most * row + jnp.log2(total)


def matmul(a: jax.Array, b: jax.Array, turned: bool = False) -> jax.Array:
  """float32 [I, K] = a [I, J] b [J, K]; `turned`: b is [K, J]."""
  exact = a.dtype == jnp.float32
  return lax.dot_general(
    a,
    b,
    (((1,), (1 if turned else 0,)), ((), ())),
    precision=lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT,
    preferred_element_type=jnp.float32,
  )


def load_rows(ref, begin, rows: int, end=None) -> jax.Array:
  """[rows, A] from row `begin`; zeros from row `end` on, if one is given."""
  at = ref.at[pl.ds(begin, rows), :]
  if end is None:
    return triton.load(at)
  inside = begin + jnp.arange(rows) < end
  return triton.load(at, mask=inside[:, None], other=0.0)


def store_rows(ref, begin, end, value: jax.Array, part=None) -> None:
  """Stores [rows, A] or [rows] from `begin` on, but not from `end` on.

  With `part` the place is [rows, part, A].
  """
  rows = value.shape[0]
  inside = begin + jnp.arange(rows) < end
  if value.ndim == 2:
    between = () if part is None else (jnp.int32(part),)
    at, inside = ref.at[(pl.ds(begin, rows), *between)], inside[:, None]
  else:
    at = ref.at[pl.ds(begin, rows)]
  triton.store(at, value.astype(ref.dtype), mask=inside)


def load_vector(ref, begin, rows: int, end, other) -> jax.Array:
  """[rows] from place `begin`; `other` from place `end` on."""
  inside = begin + jnp.arange(rows) < end
  return triton.load(ref.at[pl.ds(begin, rows)], mask=inside, other=other)


def ceil_div(a, b: int):
  """a / b rounded up, of traced non-negative integers."""
  return lax.div(a + (b - 1), jnp.int32(b))

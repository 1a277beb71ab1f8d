"""Products with weights as a sampler keeps them: int8, or in their stack.

A `Quantised` kernel is multiplied as the integers that it holds, which
bfloat16 has exactly, and its scales are applied to the sums: turning it back
before would write and read a layer in the compute type. That is done where
there are so many rows that arithmetic takes longer than such a copy.
"""

from __future__ import annotations

import math

import flax.struct
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import attention, placement
from varjax.models.quantised import Quantised

# An H100 computes a row with a weight in 2.5 fs and moves a byte in 0.33 ps:
# with more rows than this a copy of the weights is hidden, and XLA's products
# are the faster ones.
MOST_ROWS = 512
# What the tiles of the kernel divide.
GRAIN = 16


@flax.struct.dataclass
class InPlace:
  """A layer's kernel, and where it lies among those of all layers.

  The kernel comes first, see `Quantised`. A compiler drops it where the
  stack is read instead.
  """

  kernel: jax.Array | Quantised
  stack: jax.Array | Quantised  # Of all layers, [depth, D, ...].
  layer: jax.Array  # int32 []


def stored(kernel) -> bool:
  """Whether a kernel is for `product` alone."""
  return isinstance(kernel, InPlace | Quantised)


def product(
  x: Float[Array, '*S D'],
  kernel: InPlace | Quantised,
  out: str | jnp.dtype,
) -> Float[Array, '*S F']:
  """x times a kernel [D, F] or [D, ...], whose axes the result ends with.

  Args:
    x: rows in the compute type.
    kernel: of which `stored` is true; int8 sums over its first axis.
    out: type of the result; sums are float32.
  """
  stack = layer = None
  if isinstance(kernel, InPlace):
    stack, layer, kernel = kernel.stack, kernel.layer, kernel.kernel
  values, _ = _parts(kernel)
  if not fits(x, values):
    return _plain(x, kernel, jnp.dtype(out))
  # Not at the top: models must load where Pallas does not.
  from varjax.models import few_rows

  if stack is None:
    stack, layer = jax.tree.map(lambda part: part[None], kernel), 0
  whole, scales = _parts(stack)
  inner, features = values.shape[0], values.shape[1:]
  made = few_rows.product(
    x.reshape(-1, inner),
    whole.reshape(len(whole), inner, -1),
    None if scales is None else scales.reshape(len(whole), -1),
    layer,
    out=jnp.dtype(out),
  )
  return made.reshape(*x.shape[:-1], *features)


def _parts(
  kernel: jax.Array | Quantised,
) -> tuple[jax.Array, jax.Array | None]:
  """Values, and scales where there are some."""
  if isinstance(kernel, Quantised):
    return kernel.values, kernel.scale
  return kernel, None


def of_layers(
  x: Float[Array, 'B D'], kernel: Quantised, out: str | jnp.dtype
) -> Float[Array, 'B depth F']:
  """x times the int8 kernel [layers, D, F] of every layer."""
  values, scale = kernel.values, kernel.scale
  if not fits(x, values[0]):
    sums = jnp.einsum(
      'bd,ldf->blf',
      x,
      values.astype(x.dtype),
      preferred_element_type=jnp.float32,
    )
    return (sums * scale[None]).astype(out)
  from varjax.models import few_rows

  return few_rows.product(
    x, values, scale, 0, count=len(values), out=jnp.dtype(out)
  )


def fits(x: Float[Array, '*S D'], values: jax.Array | None = None) -> bool:
  """Whether the kernel for few rows serves.

  A GPU, few rows in bfloat16, whole weights on every device, and sizes that
  tiles divide.

  Args:
    x: rows.
    values: of one layer; None asks of the rows alone.
  """
  if not attention.on_gpu() or x.dtype != jnp.bfloat16:
    return False
  few = x.size // x.shape[-1] <= MOST_ROWS
  fine = values is None or not (
    values.shape[0] % GRAIN or math.prod(values.shape[1:]) % GRAIN
  )
  return few and fine and placement.alone()


def _plain(
  x: jax.Array, kernel: jax.Array | Quantised, out: jnp.dtype
) -> jax.Array:
  """By XLA's products."""
  sums = (((x.ndim - 1,), (0,)), ((), ()))
  if isinstance(kernel, Quantised) and x.size // x.shape[-1] <= MOST_ROWS:
    made = lax.dot_general(
      x, kernel.values.astype(x.dtype), sums, preferred_element_type=jnp.float32
    )
    scale = jnp.expand_dims(kernel.scale, tuple(range(x.ndim - 1)))
    return (made * scale).astype(out)
  return lax.dot_general(
    x, kernel.astype(x.dtype), sums, preferred_element_type=out
  )

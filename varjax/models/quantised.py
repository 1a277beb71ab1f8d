"""int8 weights and int8 rows: symmetric, with one scale per channel.

A weight becomes the nearest of 255 equally spaced values, q * scale with
scale = max|w| / 127 over the inputs of each output channel (as in LLM.int8,
arXiv 2208.07339, without its outliers): it errs by at most scale / 2. It is
stored as int8, and multiplied as such (`product`), so that memory holds and
moves a byte per weight. Arithmetic stays in the compute type.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

_LEVELS = 127


@flax.struct.dataclass
class Quantised:
  """A kernel as int8, which `astype` turns back.

  The values come first: Flax compares the shape of a weight's first leaf
  with what the layer declares.
  """

  values: jax.Array  # int8, in the shape of the kernel
  scale: jax.Array  # float32, without the axis that the product sums over
  # Counted from the end, as scanning takes the leading axis away.
  axis: int = flax.struct.field(pytree_node=False)

  def astype(self, dtype: str | jnp.dtype) -> jax.Array:
    """The kernel in `dtype`."""
    scale = jnp.expand_dims(self.scale, self.axis)
    return self.values.astype(dtype) * scale.astype(dtype)


def of_kernel(kernel: jax.Array, axis: int) -> Quantised:
  """A kernel whose product sums over `axis`."""
  axis = axis % kernel.ndim - kernel.ndim
  values, scale = _rounded(kernel, axis)
  return Quantised(values, scale, axis)


def of_rows(
  x: Float[Array, '*S A'],
) -> tuple[Int8[Array, '*S A'], Float[Array, '*S']]:
  """int8 vectors, and the scale of each."""
  return _rounded(x, -1)


def _rounded(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
  x = x.astype(jnp.float32)
  scale = jnp.max(jnp.abs(x), axis=axis) / _LEVELS
  # A channel of zeros stays one, whatever it is divided by.
  divisor = jnp.expand_dims(jnp.where(scale > 0, scale, 1.0), axis)
  return jnp.round(x / divisor).astype(jnp.int8), scale

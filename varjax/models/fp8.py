"""Products of a block's weights in eight bits, forwards and backwards.

`model.products='fp8'`. Both factors of a product are rounded to float8 with
one scale for the whole tensor, and summed in float32: values and weights to
e4m3 (4 bits of exponent, 3 of mantissa), gradients, which spread wider, to
e5m2 (Micikevicius et al., "FP8 Formats for Deep Learning", arXiv 2209.05433,
section 3). Scales follow the current largest absolute value, so that there
is nothing to remember between updates and nothing to checkpoint. They are
powers of two: dividing by them loses nothing, and they are exact in every
type. The derivatives are by hand: what the backward pass keeps is a byte a
number.

A product reaches cuBLASLt where XLA finds the pattern `convert(float8) *
scale` in front of both sides of a `dot`; where it finds no such library,
as on a CPU, the same numbers are multiplied in a wider type.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from varjax.models import remat

VALUE, GRADIENT = jnp.float8_e4m3fn, jnp.float8_e5m2
# Both largest numbers, 448 and 57344, are 1.75 times a power of two.
_MANTISSA = 1.75
_LARGEST = {VALUE: 2.0**8, GRADIENT: 2.0**15}
# Its inverse is still a normal number.
_LEAST_SCALE = 2.0**-126
_EXPONENT = 0x7F800000  # The bits of a float32's exponent.


class Scaled(NamedTuple):
  """A tensor `values * scale`."""

  values: jax.Array  # float8
  scale: jax.Array  # float32 scalar, a power of two; NaN if a value is

  def astype(self, dtype: Any) -> jax.Array:
    """The tensor, in the form that XLA looks for."""
    return self.values.astype(dtype) * self.scale.astype(dtype)


def quantised(x: jax.Array, kind: Any) -> Scaled:
  """x rounded to `kind`, VALUE or GRADIENT, with one scale.

  Its largest absolute value comes to lie in the top binade of the type. An
  infinity or NaN makes everything NaN: float8 has no clean way to hold one.
  """
  largest = jnp.abs(x)
  if kind == GRADIENT:
    # By columns first, as the gradient of a bias is summed: XLA then reads
    # the tensor once for both.
    columns = jnp.max(largest, axis=tuple(range(x.ndim - 1)))
    largest = lax.optimization_barrier(columns)
  largest = jnp.max(largest).astype(jnp.float32)
  # A policy that keeps this spares a second search when x is computed again.
  scale = remat.name(_scale(largest, kind), remat.SCALE)
  # In the type of x: seen as float32, that is what XLA would write and read.
  return Scaled((x * (1.0 / scale).astype(x.dtype)).astype(kind), scale)


def product(x: jax.Array, kernel: jax.Array, axes: int = 1) -> jax.Array:
  """x @ kernel in float8, in the type of x.

  Args:
    x: values; its last `axes` axes are summed over.
    kernel: float32 weights: they are rounded once, and not to the type of x
      first. Its first `axes` axes are summed over.
    axes: over how many axes the product sums.

  Returns:
    The other axes of x, then those of the kernel.
  """
  return _product(x, kernel.astype(jnp.float32), axes)


def dot_general(
  x: jax.Array, kernel: jax.Array, dimensions: Any, precision: Any = None
) -> jax.Array:
  """`product` as `nn.Dense` calls it: over the last axis of x."""
  del precision
  if dimensions != (((x.ndim - 1,), (0,)), ((), ())):
    raise ValueError(f'not the product of a dense layer: {dimensions}')
  return product(x, kernel)


def _scale(largest: jax.Array, kind: Any) -> jax.Array:
  """The power of two that brings `largest` into the top binade of `kind`."""
  bits = lax.bitcast_convert_type(largest, jnp.int32)
  power = lax.bitcast_convert_type(bits & _EXPONENT, jnp.float32)
  scale = power / _LARGEST[kind]
  # largest / power is in [1, 2); one binade more where it would not fit.
  scale = jnp.where(largest > _MANTISSA * power, 2.0 * scale, scale)
  scale = jnp.maximum(scale, _LEAST_SCALE)
  return jnp.where(jnp.isfinite(largest), scale, jnp.nan)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, axes: int) -> jax.Array:
  return _product_fwd(x, kernel, axes)[0]


def _product_fwd(x, kernel, axes):
  kept = quantised(x, VALUE), quantised(kernel, VALUE)
  left, right = (part.astype(x.dtype) for part in kept)
  inner = tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))
  return _dot(left, right, inner, x.dtype), kept


def _product_bwd(axes, kept, grad):
  x, kernel = (part.astype(grad.dtype) for part in kept)
  grad = quantised(grad, GRADIENT).astype(grad.dtype)
  rows = tuple(range(x.ndim - axes))
  outputs = tuple(range(len(rows), grad.ndim))
  columns = tuple(range(axes, kernel.ndim))
  grad_x = _dot(grad, kernel, (outputs, columns), grad.dtype)
  # Leaves the product in the type of x, as it would without float8: that is
  # what devices send each other.
  grad_kernel = _dot(x, grad, (rows, rows), grad.dtype)
  return grad_x, grad_kernel.astype(jnp.float32)


_product.defvjp(_product_fwd, _product_bwd)


def _dot(left, right, inner, dtype):
  return lax.dot_general(
    left, right, (inner, ((), ())), preferred_element_type=dtype
  )

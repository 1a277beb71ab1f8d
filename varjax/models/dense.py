"""Linear layers with logical axis names, float32 weights, normal init."""

from __future__ import annotations

import functools

from flax import linen as nn
from flax.linen.dtypes import promote_dtype
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import fp8, product


def normal(std: float, axes: tuple[str | None, ...]):
  """Initialiser N(0, std) whose parameter carries logical `axes`."""
  return nn.with_logical_partitioning(nn.initializers.normal(std), axes)


def zeros(axes: tuple[str | None, ...]):
  """Initialiser 0 whose parameter carries logical `axes`."""
  return nn.with_logical_partitioning(nn.initializers.zeros, axes)


def dense(
  features: int,
  std: float,
  axes: tuple[str | None, str | None],
  *,
  dtype: str = 'float32',
  use_bias: bool = True,
  products: str = 'compute',
) -> nn.Dense:
  """`nn.Dense` with N(0, std) weights and zero bias.

  Args:
    features: width of the output.
    std: standard deviation of the kernel.
    axes: logical names of the kernel's input and output axes.
    dtype: compute type; the weights are float32.
    use_bias: whether there is a bias.
    products: 'compute', or 'fp8' (`models.fp8`).
  """
  in_float8 = products == 'fp8'
  return nn.Dense(
    features,
    use_bias=use_bias,
    dtype=dtype,
    dot_general=fp8.dot_general if in_float8 else _dot_general,
    promote_dtype=_all_but_the_kernel if in_float8 else _promote,
    kernel_init=normal(std, axes),
    bias_init=zeros((axes[1],)),
  )


def _promote(inputs, kernel, bias, *, dtype, inexact=True):
  """Flax's own, but for a sampler's kernels, which it does not know."""
  if product.stored(kernel):
    return _all_but_the_kernel(inputs, kernel, bias, dtype=dtype)
  return promote_dtype(inputs, kernel, bias, dtype=dtype, inexact=inexact)


def _all_but_the_kernel(inputs, kernel, bias, *, dtype, inexact=True):
  """Leaves the kernel to the product, which rounds it to float8."""
  inputs, bias = promote_dtype(inputs, bias, dtype=dtype, inexact=inexact)
  return inputs, kernel, bias


def _dot_general(inputs, kernel, axes, precision=None):
  """JAX's own, but for a sampler's kernels."""
  if product.stored(kernel):
    return product.product(inputs, kernel, inputs.dtype)
  return jax.lax.dot_general(inputs, kernel, axes, precision=precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul_float32(
  x: Float[Array, 'B L D'], kernel: Float[Array, 'D F'], dtype: str
) -> Float[Array, 'B L F']:
  """Product in `dtype` that is accumulated and returned in float32.

  The gradient is cast to `dtype` before its two products: left to autodiff,
  a float32 cotangent would drag them off the fast matrix units.
  """
  return jnp.einsum(
    'bld,df->blf',
    x.astype(dtype),
    kernel.astype(dtype),
    preferred_element_type=jnp.float32,
  )


def _matmul_fwd(x, kernel, dtype):
  return matmul_float32(x, kernel, dtype), (x, kernel)


def _matmul_bwd(dtype, saved, grad):
  x, kernel = saved
  grad = grad.astype(dtype)
  grad_x = jnp.einsum('blf,df->bld', grad, kernel.astype(dtype))
  grad_kernel = jnp.einsum(
    'bld,blf->df',
    x.astype(dtype),
    grad,
    preferred_element_type=jnp.float32,
  )
  return grad_x.astype(x.dtype), grad_kernel.astype(kernel.dtype)


matmul_float32.defvjp(_matmul_fwd, _matmul_bwd)

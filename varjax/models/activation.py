"""Activations of the MLP that keep their arguments and nothing else.

Between the two products of a block's MLP. They are computed in float32,
whatever type goes in and comes out; autodiff would keep those float32 inner
values for the backward pass. GELU: arXiv 1606.08415; SwiGLU: 2002.05202.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SLOPE, _CUBE = math.sqrt(2 / math.pi), 0.044715


def recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """A function whose backward pass starts from its arguments.

  Like `jax.checkpoint`, without its barrier against merging: in a loop over
  layers there is nothing to merge with, and the barrier would also keep the
  recomputation out of the kernel that needs it.
  """

  @jax.custom_vjp
  def wrapped(*arguments: jax.Array) -> jax.Array:
    return function(*arguments)

  def forward(*arguments):
    return function(*arguments), arguments

  def backward(arguments, grad):
    return jax.vjp(function, *arguments)[1](grad)

  wrapped.defvjp(forward, backward)
  return wrapped


@jax.custom_vjp
def gelu(x: Float[Array, 'B L M']) -> Float[Array, 'B L M']:
  """The tanh approximation of GELU, in the type of x."""
  wide = x.astype(jnp.float32)
  return jax.nn.gelu(wide, approximate=True).astype(x.dtype)


def _gelu_fwd(x):
  return gelu(x), x


def _gelu_bwd(x, grad):
  # By other functions than forwards, or XLA merges both tanh and keeps it,
  # in float32. (1 + tanh(u)) / 2 is the logistic function of 2 u.
  wide = x.astype(jnp.float32)
  square = jnp.square(wide)
  gate = jax.nn.sigmoid(wide * (2 * _SLOPE + 2 * _SLOPE * _CUBE * square))
  steep = 2 * _SLOPE + 6 * _SLOPE * _CUBE * square
  slope = gate + wide * gate * (1 - gate) * steep
  return ((grad.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(_gelu_fwd, _gelu_bwd)


@recomputed
def swiglu(
  gate: Float[Array, 'B L M'], x: Float[Array, 'B L M']
) -> Float[Array, 'B L M']:
  """`silu(gate) * x`, in the type of x."""
  wide = jax.nn.silu(gate.astype(jnp.float32)) * x.astype(jnp.float32)
  return wide.astype(x.dtype)

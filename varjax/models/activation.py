"""Activations of the MLP that keep their arguments and nothing else.

Between the two products of a block's MLP. They are computed in float32,
whatever type goes in and comes out; autodiff would keep those float32 inner
values for the backward pass. GELU: arXiv 1606.08415; SwiGLU: 2002.05202.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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


@recomputed
def gelu(x: Float[Array, 'B L M']) -> Float[Array, 'B L M']:
  """The tanh approximation of GELU, in the type of x."""
  wide = x.astype(jnp.float32)
  return jax.nn.gelu(wide, approximate=True).astype(x.dtype)


@recomputed
def swiglu(
  gate: Float[Array, 'B L M'], x: Float[Array, 'B L M']
) -> Float[Array, 'B L M']:
  """`silu(gate) * x`, in the type of x."""
  wide = jax.nn.silu(gate.astype(jnp.float32)) * x.astype(jnp.float32)
  return wide.astype(x.dtype)

"""Normalisations of the transformer: LayerNorm under AdaLN, unit vectors.

Statistics are float32 whatever the compute type is; the result goes back to
the type of the input (VAR section 3.2, DiT for the modulation).
"""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPS = 1e-6
_TINY_SQUARED = 1e-24  # (1e-12)**2, the floor of the official normalize()


def layer_norm(x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
  """LayerNorm without affine parameters, eps 1e-6, float32 out."""
  x = x.astype(jnp.float32)
  centred = x - jnp.mean(x, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
  return centred * lax.rsqrt(variance + EPS)


def modulate(
  x: Float[Array, 'B L D'],
  scale: Float[Array, 'B D'],
  shift: Float[Array, 'B D'],
) -> Float[Array, 'B L D']:
  """`LayerNorm(x) * (1 + scale) + shift` per image, in the type of x."""
  normed = layer_norm(x)
  scale = scale.astype(jnp.float32)[:, None, :]
  shift = shift.astype(jnp.float32)[:, None, :]
  return (normed * (1.0 + scale) + shift).astype(x.dtype)


def unit(x: Float[Array, '... A']) -> Float[Array, '... A']:
  """`x / max(|x|, 1e-12)` over the last axis, float32 out."""
  x = x.astype(jnp.float32)
  squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  # The floor sits under the root, so that the gradient at 0 is finite.
  return x * lax.rsqrt(jnp.maximum(squared, _TINY_SQUARED))


def silu(x: jax.Array) -> jax.Array:
  """x * sigmoid(x)."""
  return x * jax.nn.sigmoid(x)

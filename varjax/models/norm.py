"""Normalisations of the transformer: LayerNorm, RMSNorm, unit vectors.

Under AdaLN the scale and shift of a LayerNorm come from the class (VAR
section 3.2, DiT); otherwise they are weights. Statistics are float32
whatever the compute type is; the result goes back to the type of the input.
"""

from __future__ import annotations

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import dense
from varjax.spec import ModelSpec

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


class Norm(nn.Module):
  """The normalisation in front of a branch or of the head.

  `model.norm` decides: 'adaln' is modulated by what it is given, 'layernorm'
  (1607.06450) has a learned scale and, with `model.bias`, shift, and
  'rmsnorm' (1910.07467) a learned scale alone.
  """

  spec: ModelSpec

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B L D'],
    scale: Float[Array, 'B D'] | None = None,
    shift: Float[Array, 'B D'] | None = None,
  ) -> Float[Array, 'B L D']:
    """Normalises, in the type of x; `scale` and `shift` are AdaLN's."""
    spec = self.spec
    if spec.norm == 'adaln':
      return modulate(x, scale, shift)
    ones = nn.with_logical_partitioning(nn.initializers.ones, ('embed',))
    weight = self.param('scale', ones, (spec.width,))
    normed = layer_norm(x) if spec.norm == 'layernorm' else rms_norm(x)
    normed = normed * weight[None, None]
    if spec.norm == 'layernorm' and spec.bias:
      bias = self.param('bias', dense.zeros(('embed',)), (spec.width,))
      normed = normed + bias[None, None]
    return normed.astype(x.dtype)


def rms_norm(x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
  """`x / sqrt(mean(x**2) + 1e-6)`, float32 out."""
  x = x.astype(jnp.float32)
  squared = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
  return x * lax.rsqrt(squared + EPS)


def unit(x: Float[Array, '... A']) -> Float[Array, '... A']:
  """`x / max(|x|, 1e-12)` over the last axis, float32 out."""
  x = x.astype(jnp.float32)
  squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  # The floor sits under the root, so that the gradient at 0 is finite.
  return x * lax.rsqrt(jnp.maximum(squared, _TINY_SQUARED))


def silu(x: jax.Array) -> jax.Array:
  """x * sigmoid(x)."""
  return x * jax.nn.sigmoid(x)

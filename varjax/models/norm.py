"""Normalisations of the transformer: LayerNorm, RMSNorm, unit vectors.

Under AdaLN the scale and shift of a LayerNorm come from the class (VAR
section 3.2, DiT); otherwise they are weights. Statistics are float32
whatever the compute type is; the result goes back to the type of the input.

Autodiff would keep the float32 normalised values for the backward pass. The
derivatives here keep the input, in its own type, and one or two float32
numbers a row, and normalise again.
"""

from __future__ import annotations

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import dense
from varjax.spec import ModelSpec

EPS = 1e-6
_TINY_SQUARED = 1e-24  # (1e-12)**2, the floor of the official normalize()


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def scaled_norm(
  x: Float[Array, 'B L D'], gain: Float[Array, '#B 1 D'], centred: bool
) -> Float[Array, 'B L D']:
  """`(x - mean) / sqrt(variance + 1e-6) * gain`, float32 out.

  Args:
    x: hidden states.
    gain: float32, per image or for all of them.
    centred: LayerNorm (1607.06450); otherwise the mean is left in, and it
      is RMSNorm (1910.07467).
  """
  return _scaled_norm_fwd(x, gain, centred)[0]


def _scaled_norm_fwd(x, gain, centred):
  wide = x.astype(jnp.float32)
  mean = None
  if centred:
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    wide = wide - mean
  squared = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  inverse = lax.rsqrt(squared + EPS)
  return wide * inverse * gain, (x, gain, mean, inverse)


def _scaled_norm_bwd(centred, saved, grad):
  x, gain, mean, inverse = saved
  # Or XLA computes the rows' statistics again in front of each result, one
  # kernel and a float32 copy for each, where one kernel does for all.
  mean, inverse = lax.optimization_barrier((mean, inverse))
  wide = x.astype(jnp.float32)
  normed = (wide - mean if centred else wide) * inverse
  grad_normed = grad * gain
  along = jnp.mean(grad_normed * normed, axis=-1, keepdims=True)
  grad_x = grad_normed - normed * along
  if centred:
    grad_x = grad_x - jnp.mean(grad_normed, axis=-1, keepdims=True)
  grad_gain = _sum_to(grad * normed, gain.shape)
  return (inverse * grad_x).astype(x.dtype), grad_gain


scaled_norm.defvjp(_scaled_norm_fwd, _scaled_norm_bwd)


def modulate(
  x: Float[Array, 'B L D'],
  scale: Float[Array, 'B D'],
  shift: Float[Array, 'B D'],
) -> Float[Array, 'B L D']:
  """`LayerNorm(x) * (1 + scale) + shift` per image, in the type of x."""
  scale = scale.astype(jnp.float32)[:, None, :]
  shift = shift.astype(jnp.float32)[:, None, :]
  return (scaled_norm(x, 1.0 + scale, True) + shift).astype(x.dtype)


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
    normed = scaled_norm(x, weight[None, None], spec.norm == 'layernorm')
    if spec.norm == 'layernorm' and spec.bias:
      bias = self.param('bias', dense.zeros(('embed',)), (spec.width,))
      normed = normed + bias[None, None]
    return normed.astype(x.dtype)


@jax.custom_vjp
def unit(
  x: Float[Array, 'B L N A'], scale: Float[Array, '1 1 #N 1']
) -> Float[Array, 'B L N A']:
  """`scale * x / max(|x|, 1e-12)` over the last axis, in the type of x."""
  return _unit_fwd(x, scale)[0]


def _unit_fwd(x, scale):
  wide = x.astype(jnp.float32)
  squared = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
  inverse = lax.rsqrt(jnp.maximum(squared, _TINY_SQUARED))
  return (wide * inverse * scale).astype(x.dtype), (x, scale, inverse)


def _unit_bwd(saved, grad):
  x, scale, inverse = saved
  grad = grad.astype(jnp.float32)
  normed = x.astype(jnp.float32) * inverse
  grad_normed = grad * scale
  along = jnp.sum(grad_normed * normed, axis=-1, keepdims=True)
  # At the floor the length is constant, and the gradient stays finite.
  floored = inverse >= lax.rsqrt(jnp.float32(_TINY_SQUARED))
  grad_x = inverse * (grad_normed - jnp.where(floored, 0.0, normed * along))
  return grad_x.astype(x.dtype), _sum_to(grad * normed, scale.shape)


unit.defvjp(_unit_fwd, _unit_bwd)


def silu(x: jax.Array) -> jax.Array:
  """x * sigmoid(x)."""
  return x * jax.nn.sigmoid(x)


def _sum_to(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Sums the axes that a broadcast from `shape` has repeated."""
  axes = tuple(i for i, size in enumerate(shape) if size < x.shape[i])
  return jnp.sum(x, axis=axes, keepdims=True)

"""What happens to logits before a code is drawn: guidance and filters.

Official `autoregressive_infer_cfg` and `sample_with_top_k_top_p_`.
"""

from __future__ import annotations

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt

from varjax.sampling import bisection


def ratio(step: int | jax.Array, num_steps: int) -> float | jax.Array:
  """Progress k / (K - 1) through the steps; 1 where there is only one.

  Upstream has no single-step models; full guidance is then the reading
  that does not ignore what the caller asked for.
  """
  return step / (num_steps - 1) if num_steps > 1 else 1.0


@jax.named_scope('guidance')
def guide(
  conditional: Float[Array, '*S V'],
  unconditional: Float[Array, '*S V'],
  strength: float | jax.Array,
) -> Float[Array, '*S V']:
  """Classifier-free guidance, (1 + t) cond - t uncond (2207.12598)."""
  return (1 + strength) * conditional - strength * unconditional


@jax.named_scope('filters')
def top_k(
  logits: Float[Array, '*S V'],
  count: int,
  digit_bits: int = bisection.DIGIT_BITS,
) -> Float[Array, '*S V']:
  """Sets all but the `count` largest to -inf; ties with the last are kept.

  Args:
    logits: finite or -inf.
    count: 0 switches the filter off.
    digit_bits: see `bisection.largest`.
  """
  if not count or count >= logits.shape[-1]:
    return logits
  keys = bisection.ordered(logits)

  def enough(least: UInt[Array, '*S']) -> Bool[Array, '*S']:
    return jnp.sum(keys >= least[..., None], axis=-1) >= count

  least = bisection.largest(enough, keys.shape[:-1], digit_bits=digit_bits)
  return jnp.where(keys < least[..., None], -jnp.inf, logits)


@jax.named_scope('filters')
def top_p(
  logits: Float[Array, '*S V'],
  mass: float,
  digit_bits: int = bisection.DIGIT_BITS,
) -> Float[Array, '*S V']:
  """Sets the least likely tail to -inf (nucleus filter, 1904.09751).

  In ascending order, everything up to a cumulative probability of 1 - mass
  goes; the largest always stays. Equal logits are ranked by index: of those
  at the threshold, the first ones go, as many as the tail has room for.

  Args:
    logits: possibly already filtered.
    mass: in (0, 1]; 0 switches the filter off.
    digit_bits: see `bisection.largest`.
  """
  if not mass:
    return logits
  keys, shape = bisection.ordered(logits), logits.shape[:-1]
  p = jax.nn.softmax(logits, axis=-1)
  tail = 1 - mass

  def below(least: UInt[Array, '*S']) -> Float[Array, '*S']:
    return jnp.sum(jnp.where(keys < least[..., None], p, 0), axis=-1)

  largest = functools.partial(
    bisection.largest, shape=shape, digit_bits=digit_bits
  )
  least = largest(lambda key: below(key) <= tail)
  least = jnp.minimum(least, jnp.max(keys, axis=-1))
  tied = keys == least[..., None]
  each = jnp.max(jnp.where(tied, p, 0), axis=-1)
  room = jnp.floor((tail - below(least)) / each).astype(jnp.int32)
  dropped = jnp.clip(room, 0, jnp.sum(tied, axis=-1) - 1)
  index = lax.broadcasted_iota(jnp.uint32, tied.shape, tied.ndim - 1)

  def fits(stop: UInt[Array, '*S']) -> Bool[Array, '*S']:
    before = tied & (index < stop[..., None])
    return jnp.sum(before, axis=-1) <= dropped

  stop = largest(fits, bits=(p.shape[-1] - 1).bit_length())
  drop = (keys < least[..., None]) | (tied & (index < stop[..., None]))
  return jnp.where(drop, -jnp.inf, logits)

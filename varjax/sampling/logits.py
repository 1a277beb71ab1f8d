"""What happens to logits before a code is drawn: guidance and filters.

Official `autoregressive_infer_cfg` and `sample_with_top_k_top_p_`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def ratio(step: int | jax.Array, num_steps: int) -> float | jax.Array:
  """Progress k / (K - 1) through the steps; 1 where there is only one.

  Upstream has no single-step models; full guidance is then the reading
  that does not ignore what the caller asked for.
  """
  return step / (num_steps - 1) if num_steps > 1 else 1.0


def guide(
  conditional: Float[Array, '*S V'],
  unconditional: Float[Array, '*S V'],
  strength: float | jax.Array,
) -> Float[Array, '*S V']:
  """Classifier-free guidance, (1 + t) cond - t uncond (2207.12598)."""
  return (1 + strength) * conditional - strength * unconditional


def top_k(logits: Float[Array, '*S V'], count: int) -> Float[Array, '*S V']:
  """Sets all but the `count` largest to -inf; ties with the last are kept.

  0 switches the filter off.
  """
  if not count:
    return logits
  count = min(count, logits.shape[-1])
  least = jax.lax.top_k(logits, count)[0][..., -1:]
  return jnp.where(logits < least, -jnp.inf, logits)


def top_p(logits: Float[Array, '*S V'], mass: float) -> Float[Array, '*S V']:
  """Sets the least likely tail to -inf (nucleus filter, 1904.09751).

  In ascending order, everything up to a cumulative probability of 1 - mass
  goes; the largest always stays. Equal logits are ranked by index.

  Args:
    logits: possibly already filtered.
    mass: in (0, 1]; 0 switches the filter off.
  """
  if not mass:
    return logits
  order = jnp.argsort(logits, axis=-1, stable=True)
  ascending = jnp.take_along_axis(logits, order, axis=-1)
  cumulative = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1)
  drop = (cumulative <= 1 - mass).at[..., -1].set(False)
  rank = jnp.argsort(order, axis=-1)
  return jnp.where(jnp.take_along_axis(drop, rank, axis=-1), -jnp.inf, logits)

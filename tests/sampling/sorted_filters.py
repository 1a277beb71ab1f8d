"""The filters by sorting: what the bisecting ones are held against.

As the official `sample_with_top_k_top_p_` has them, with a stable sort.
"""

import jax
import jax.numpy as jnp


def top_k(logits, count):
  """The `count` largest, and what equals the last of them."""
  least = jax.lax.top_k(logits, min(count, logits.shape[-1]))[0][..., -1:]
  return jnp.where(logits < least, -jnp.inf, logits)


def top_p(logits, mass):
  """All but the tail of the ascending sort up to 1 - mass."""
  cumulative, order = cumulate(logits)
  drop = (cumulative <= 1 - mass).at[..., -1].set(False)
  rank = jnp.argsort(order, axis=-1)
  return jnp.where(jnp.take_along_axis(drop, rank, axis=-1), -jnp.inf, logits)


def cumulate(logits):
  """Cumulative probabilities of the ascending sort, and the sort."""
  order = jnp.argsort(logits, axis=-1, stable=True)
  ascending = jnp.take_along_axis(logits, order, axis=-1)
  return jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1), order

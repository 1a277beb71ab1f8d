"""Attention weights for looking at, which no back end stores in training.

`model.apply(..., mutable=[maps.COLLECTION])` also returns them, [depth, B,
N, L, L]; every other call neither computes nor keeps them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.models import attention

COLLECTION = 'maps'


def weights(
  q: Float[Array, 'B L N A'],
  k: Float[Array, 'B L N A'],
  scale: float,
  blocks: attention.Blocks | None,
  steps: Int[Array, '#B L'] | None,
) -> Float[Array, 'B N L L']:
  """Softmax of the logits under the step rule, float32, row per query.

  Args:
    q, k: queries and keys as they are multiplied.
    scale: of the logits.
    blocks, steps: the rule, see `attention.attend`.
  """
  logits = jnp.einsum(
    'blna,bmna->bnlm', q, k, preferred_element_type=jnp.float32
  )
  mask = attention.allowed(blocks, steps)
  logits = logits * scale
  if mask is not None:
    logits = jnp.where(mask, logits, -jnp.inf)
  return jax.nn.softmax(logits, axis=-1)


def of_layers(variables) -> Float[Array, 'depth B N L L']:
  """The weights out of what `apply` returned beside the logits."""
  return variables[COLLECTION]['blocks']['attention']['weights'][0]

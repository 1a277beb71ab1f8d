"""`more_smooth`: soft mixtures of codes instead of drawn ones.

Gumbel-softmax with a temperature that falls over the steps (official
`gumbel_softmax_with_rng`). Smoother images, no valid codes: for viewing and
editing, not for evaluation.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float


def mixture(
  logits: Float[Array, 'B T V'],
  gumbel: Float[Array, 'B T V'],
  ratio: float,
) -> Float[Array, 'B T V']:
  """Weights over the codebook.

  Args:
    logits: filtered logits (-inf gets no weight).
    gumbel: standard Gumbel noise.
    ratio: progress k / (K - 1) through the steps.

  Returns:
    softmax((logits * (1 + ratio) + gumbel) / temperature), with temperature
    max(0.27 (1 - 0.95 ratio), 0.005).
  """
  temperature = max(0.27 * (1 - ratio * 0.95), 0.005)
  return jax.nn.softmax((logits * (1 + ratio) + gumbel) / temperature, axis=-1)

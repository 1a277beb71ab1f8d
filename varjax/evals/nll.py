"""Negative log-likelihood of codes: per position, then per scale.

What a scaling law is fitted to: nats per position, of the whole image, of
the last scale and of each scale (VAR section 4.2), and the share of wrong
top-1 codes. A position with R codes counts the sum of their nats.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
  logits: Float[Array, 'B L R V'],
  targets: Int[Array, 'B L R'],
  smoothing: float = 0.0,
) -> Float[Array, 'B L']:
  """Nats of each position.

  Args:
    logits: float32.
    targets: codes in [0, V).
    smoothing: share of the target mass spread over all V codes.

  Returns:
    Cross-entropy, summed over the R codes of a position.
  """
  # Comparing an iota fuses with the softmax; a gather's gradient would not.
  codes = jnp.arange(logits.shape[-1], dtype=targets.dtype)
  is_target = targets[..., None] == codes[None, None, None]
  target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  expected = target_logit
  if smoothing:
    uniform = jnp.mean(logits, axis=-1)
    expected = (1 - smoothing) * target_logit + smoothing * uniform
  normaliser = jax.nn.logsumexp(logits, axis=-1)
  return jnp.sum(normaliser - expected, axis=-1)


def wrong(
  logits: Float[Array, 'B L R V'],
  targets: Int[Array, 'B L R'],
  factors: int = 1,
) -> Float[Array, 'B L']:
  """Share of a position's codes that are not the top-1 prediction.

  Args:
    logits, targets: of codes, or of sub-tokens.
    factors: sub-tokens of a code; it is wrong if one of them is.
  """
  different = jnp.argmax(logits, axis=-1) != targets
  codes = different.reshape(*different.shape[:-1], -1, factors)
  return jnp.mean(jnp.any(codes, axis=-1).astype(jnp.float32), axis=-1)


def by_scale(
  values: Float[Array, 'B L'], block_sizes: Sequence[int]
) -> Float[Array, 'B K']:
  """Mean over the positions of each scale."""
  means, start = [], 0
  for size in block_sizes:
    means.append(jnp.mean(values[:, start : start + size], axis=1))
    start += size
  return jnp.stack(means, axis=1)


def batch_mean(
  values: Float[Array, ' B'], mask: Array | None = None
) -> Float[Array, '']:
  """Mean over the images that `mask` [B] marks valid (default: all)."""
  if mask is None:
    return jnp.mean(values)
  mask = mask.astype(values.dtype)
  return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)

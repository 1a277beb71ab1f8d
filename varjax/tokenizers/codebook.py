"""A learned codebook: its start, and distances to all of it.

What the quantizers with a table of code vectors share; looking up the
nearest entry is `nearest`.
"""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.spec import TokenizerSpec

# Half width of the uniform initialisation, times sqrt(C) (official VAR).
_WIDTH = 1 / 36


def init(spec: TokenizerSpec, rng: jax.Array) -> nn.LogicallyPartitioned:
  """Fresh code vectors [V, C], uniform, boxed with logical axis names."""
  half_width = spec.code_dim**-0.5 * _WIDTH
  embedding = jax.random.uniform(
    rng,
    (spec.vocab, spec.code_dim),
    minval=-half_width,
    maxval=half_width,
  )
  return nn.LogicallyPartitioned(embedding, ('vocab', None))


def entropy_penalty(
  rows: Float[Array, 'B C'],
  codebook: Float[Array, 'V C'],
  temperature: float,
  diversity: float,
) -> Float[Array, '']:
  """Mean entropy of the soft choice, minus the entropy of its mean.

  Small when every vector is near one code and all codes are near some
  vector. The choice is softmax(-|z - e|^2 / temperature). All [B, V]
  distances are formed. Source: MAGVIT-v2 (arXiv 2310.05737, equation 5), as
  LlamaGen (arXiv 2406.06525) uses it for a learned codebook.

  Args:
    rows: vectors z.
    codebook: entries e.
    temperature: of the soft choice.
    diversity: weight of the entropy of the mean.
  """
  products = jnp.matmul(rows, codebook.T, precision=jax.lax.Precision.HIGHEST)
  # |z|^2 is the same for all codes: the softmax does not see it.
  squares = jnp.sum(jnp.square(codebook), -1)
  logits = (2 * products - squares[None]) / temperature
  log_share = jax.nn.log_softmax(logits)
  each = -jnp.mean(jnp.sum(jnp.exp(log_share) * log_share, -1))
  mean = jnp.mean(jnp.exp(log_share), 0)
  # x log x has an infinite slope at 0; a code that nothing is near has none.
  safe = jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)
  return each + diversity * jnp.sum(mean * jnp.log(safe))

"""What the loss of stage 2 reads of the logits, a position at a time.

The last stretch of a training step: hidden states to nats and errors. The
float32 logits of a batch are larger than anything else in the step (d16,
64 images of 680 positions, 4096 codes: 713 MB, and their gradient as much);
in parts along the sequence they never exist at once. Each part is computed
again in the backward pass, one product of the classifier more.
"""

from __future__ import annotations

from collections.abc import Callable

from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.evals import nll


@flax.struct.dataclass
class Scores:
  """Of each position."""

  plain: jax.Array  # [B, L] nats
  loss: jax.Array  # [B, L] nats, with label smoothing
  wrong: jax.Array  # [B, L] share of wrong codes


def of_logits(
  logits: Float[Array, 'B L R V'],
  targets: Int[Array, 'B L R'],
  *,
  smoothing: float = 0.0,
  factors: int = 1,
) -> Scores:
  """Scores of logits that are at hand.

  Args:
    logits: float32.
    targets: codes, or sub-tokens.
    smoothing: share of the target mass spread over all codes.
    factors: sub-tokens of a code.
  """
  plain = nll.cross_entropy(logits, targets)
  loss = plain
  if smoothing:
    loss = nll.cross_entropy(logits, targets, smoothing)
  return Scores(plain, loss, nll.wrong(logits, targets, factors))


def in_chunks(
  score: Callable[..., Scores], arrays: tuple[jax.Array | None, ...], count: int
) -> Scores:
  """`score(*arrays)` over `count` parts of the sequence, one at a time.

  Args:
    score: independent for each position; what it needs of a part is computed
      again in the backward pass.
    arrays: hidden states, targets and what else has a row a position,
      [B, L, ...], or None. A length that does not divide is padded by rows
      whose scores are dropped.
    count: parts.

  Returns:
    Scores [B, L], equal to the whole in exact arithmetic.
  """
  length = next(a.shape[1] for a in arrays if a is not None)
  size = -(-length // count)

  def split(x: jax.Array) -> jax.Array:
    pad = [(0, 0)] * x.ndim
    pad[1] = (0, count * size - length)
    parts = jnp.pad(x, pad).reshape(x.shape[0], count, size, *x.shape[2:])
    return jnp.moveaxis(parts, 1, 0)

  def one(carry: None, part: tuple[jax.Array | None, ...]):
    part = jax.tree.map(
      lambda x: nn.with_logical_constraint(
        x, ('batch', 'length', *(None,) * (x.ndim - 2))
      ),
      part,
    )
    return carry, score(*part)

  # Inside a scan nothing can merge the two computations of a part.
  again = jax.checkpoint(one, prevent_cse=False)
  _, found = jax.lax.scan(again, None, jax.tree.map(split, arrays))
  return jax.tree.map(
    lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)[:, :length], found
  )

"""Logits as codes are drawn from them: guided, then filtered.

Between the classifier and the draw. On an NVIDIA GPU one kernel does all of
it with a row of logits in registers; elsewhere the functions of `logits` run
one after the other, and read the row in every pass.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import attention, placement
from varjax.sampling import logits as logits_lib

AXES = ('batch', None, None, None)  # Of logits.
# Rows that a thread block has registers for.
MOST_VALUES = 16_384


@jax.named_scope('filters')
def drawable(
  conditional: Float[Array, 'B T R V'],
  unconditional: Float[Array, 'B T R V'] | None,
  strength: float | jax.Array,
  count: int,
  mass: float,
) -> Float[Array, 'B T R V']:
  """Guided logits, -inf where a filter drops them.

  Args:
    conditional: logits under the label.
    unconditional: those under none; None without guidance.
    strength: of the guidance, see `logits.guide`.
    count: of `logits.top_k`; 0 keeps all.
    mass: of `logits.top_p`; 0 keeps all.
  """
  if (count or mass) and fits(conditional):
    # Not at the top: samplers must load where Pallas does not.
    from varjax.sampling import filter_kernel

    return filter_kernel.drawable(
      conditional, unconditional, strength, count, mass
    )
  return plain(conditional, unconditional, strength, count, mass)


def fits(logits: Float[Array, 'B T R V']) -> bool:
  """Whether the kernel serves: a GPU, float32, rows that it can hold."""
  return (
    attention.on_gpu()
    and logits.dtype == jnp.float32
    and logits.shape[-1] <= MOST_VALUES
    and placement.divides(logits.shape, AXES)
  )


def plain(
  conditional: Float[Array, '*S V'],
  unconditional: Float[Array, '*S V'] | None,
  strength: float | jax.Array,
  count: int,
  mass: float,
) -> Float[Array, '*S V']:
  """`drawable` by its definition, one operation after the other."""
  guided = conditional
  if unconditional is not None:
    guided = logits_lib.guide(conditional, unconditional, strength)
  return logits_lib.top_p(logits_lib.top_k(guided, count), mass)

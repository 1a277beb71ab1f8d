"""Guidance and filters on NVIDIA GPUs, a row of logits in registers.

A kernel in Pallas for Triton. It holds one row, or several short ones, and
runs the very functions of `logits` on it: the bisection of `bisection` then
compares and sums registers. Memory sees the logits once, and the filtered
row once, where the plain path reads the row some forty times, in as many
launches.
"""

from __future__ import annotations

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import placement
from varjax.models.launch import launch, whole
from varjax.sampling import filters
from varjax.sampling import logits as logits_lib

# Values of a thread block, and of a thread of it: see
# `benchmarks/sampler_kernels.py`.
_BLOCK, _EACH = 4096, 16
_WARP, _MOST_WARPS = 32, 32
# Every comparison ends in a sum over threads, which costs more than the pass
# over registers: a bit at a time takes the fewest.
_DIGIT_BITS = 1


def drawable(
  conditional: Float[Array, 'B T R V'],
  unconditional: Float[Array, 'B T R V'] | None,
  strength: float | jax.Array,
  count: int,
  mass: float,
  *,
  interpret: bool = False,
) -> Float[Array, 'B T R V']:
  """What `filters.plain` returns; arguments as of `filters.drawable`.

  Sums of probabilities are added in another order, so that a code whose
  cumulative probability is within rounding of the edge may fall on the
  other side of it.

  Args:
    interpret: run the kernel as ordinary operations.

  Raises:
    ConfigError: images that do not divide over the mesh in use.
  """
  arguments, axes = [conditional], [filters.AXES]
  if unconditional is not None:
    strength = jnp.asarray(strength, jnp.float32).reshape(1)
    arguments += [unconditional, strength]
    axes += [filters.AXES, (None,)]
  local = functools.partial(
    _drawable, count=count, mass=mass, interpret=interpret
  )
  return placement.run(local, arguments, axes, name='filter')


def _drawable(
  conditional, unconditional=None, strength=None, *, count, mass, interpret
) -> jax.Array:
  """The kernel on the arrays of one device."""
  values = conditional.shape[-1]
  rows = conditional.size // values
  together, warps = shape(rows, values)
  arguments = [conditional.reshape(rows, values)]
  if unconditional is not None:
    arguments += [unconditional.reshape(rows, values), strength]
  filtered = jax.ShapeDtypeStruct((rows, values), jnp.float32)
  (out,) = launch(
    functools.partial(
      _kernel,
      count=count,
      mass=mass,
      tile=(together, pl.next_power_of_2(values)),
    ),
    (pl.cdiv(rows, together),),
    [(x, whole(x.shape)) for x in arguments],
    [(filtered, whole(filtered.shape))],
    warps=warps,
    interpret=interpret,
    name='filter_rows',
  )
  return out.reshape(conditional.shape)


def shape(rows: int, values: int) -> tuple[int, int]:
  """Rows that a thread block has together, and its warps."""
  padded = pl.next_power_of_2(values)
  together = max(1, min(_BLOCK // padded, pl.next_power_of_2(rows)))
  return together, max(
    1, min(_MOST_WARPS, together * padded // (_EACH * _WARP))
  )


def _kernel(conditional_ref, *refs, count, mass, tile):
  *guidance, out_ref = refs
  rows, values = out_ref.shape
  first = pl.program_id(0) * tile[0]
  at = (pl.ds(first, tile[0]), pl.ds(0, tile[1]))
  row = first + jnp.arange(tile[0])
  column = jnp.arange(tile[1])
  inside = (row < rows)[:, None] & (column < values)[None]

  def load(ref):
    return triton.load(ref.at[at], mask=inside, other=0.0)

  logits = load(conditional_ref)
  if guidance:
    other, strength = guidance
    logits = logits_lib.guide(logits, load(other), strength[0])
  # What a row is filled up with is the least likely, and nothing.
  logits = jnp.where((column < values)[None], logits, -jnp.inf)
  # The count that switches the filter off is of the values that there are.
  count = count if count < values else 0
  logits = logits_lib.top_k(logits, count, _DIGIT_BITS)
  logits = logits_lib.top_p(logits, mass, _DIGIT_BITS)
  triton.store(out_ref.at[at], logits, mask=inside)

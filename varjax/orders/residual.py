"""Residual depth: positions one after the other, and the codes of each too.

RQ-Transformer (arXiv 2203.01941, section 3.2): the large transformer reads
at a position the sum of the code vectors of the one before, and makes one
row for all R codes there; a small one predicts these in sequence, each from
the row and the sum of the code vectors before it. Against the raster order
of the same codes the large transformer has R times fewer rows and steps.
Codes that are parts and not refinements (the bits of 'lfq' and 'bsq') are
summed with zeros where the missing parts are. The likelihood is exact.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.orders.base import Choice, Given, Turn
from varjax.orders.features import FeatureOrder
from varjax.tokenizers.base import Quantizer
from varjax.types import Codes, Example, Layout


@flax.struct.dataclass
class Stacks:
  """A generation between two positions."""

  codes: jax.Array  # [B, L, R] int32; what is not generated yet is 0
  inputs: jax.Array  # [B, 1, C], features of the newest position


@dataclasses.dataclass(frozen=True)
class ResidualOrder(FeatureOrder):
  """Stacks of R codes; it has no settings."""

  @functools.cached_property
  def layout(self) -> Layout:
    """Every position is a step; the first has the start symbol."""
    codes = self.code_spec
    return self.blocks(
      (1,) * codes.positions, num_steps=0, depth_dim=codes.code_dim
    )

  @property
  def turns(self) -> int:
    """One for each position."""
    return self.code_spec.positions

  @functools.cached_property
  def alike(self) -> tuple[int, ...]:
    """All but the first, which has no input."""
    return (0, *(1,) * (self.turns - 1))

  def example(
    self, quantizer: Quantizer, codes: Codes, keys: jax.Array | None = None
  ) -> Example:
    """Codes [B, L, R] with sums over the codes of a position [B, L, R, C]."""
    del keys
    depth = self.code_spec.codes_per_position
    sums = [
      self.embed(quantizer, codes[..., :count]) for count in range(1, depth + 1)
    ]
    numbers = jnp.arange(self.turns, dtype=jnp.int32)[None]
    return Example(
      inputs=sums[-1][:, :-1],
      targets=codes,
      weights=jnp.ones(codes.shape[:2], jnp.float32),
      positions=numbers,
      steps=numbers,
      sums=jnp.stack(sums, axis=2)[:, :, :-1],
    )

  def start(
    self, quantizer: Quantizer, keys: jax.Array, given: Given | None
  ) -> Stacks:
    """No position yet."""
    del quantizer, given
    codes, batch = self.code_spec, keys.shape[0]
    shape = (batch, codes.positions, codes.codes_per_position)
    inputs = jnp.zeros((batch, 1, codes.code_dim), jnp.float32)
    return Stacks(jnp.zeros(shape, jnp.int32), inputs)

  def turn(self, state: Stacks, step: int | jax.Array, like: int) -> Turn:
    """Reads the position before and asks for the one at `step`."""
    here = jnp.full((1, 1), step, jnp.int32)
    return Turn(state.inputs if like else None, here, here)

  def embed(
    self, quantizer: Quantizer, codes: Int[Array, 'B T R']
  ) -> Float[Array, 'B T C']:
    """The sum of the code vectors of each position, of the first few too."""
    features = quantizer.embed(codes)
    missing = self.code_spec.code_dim - features.shape[-1]
    return jnp.pad(features, ((0, 0), (0, 0), (0, missing)))

  def advance(
    self,
    quantizer: Quantizer,
    state: Stacks,
    choice: Choice,
    step: int | jax.Array,
    like: int,
  ) -> Stacks:
    """Puts the codes of the position at `step`."""
    del quantizer, like
    codes = jax.lax.dynamic_update_slice_in_dim(
      state.codes, choice.codes, step, axis=1
    )
    return Stacks(codes, choice.features)

  def finish(self, state: Stacks) -> tuple[Codes, None]:
    """The codes; the tokenizer decodes them."""
    return state.codes, None

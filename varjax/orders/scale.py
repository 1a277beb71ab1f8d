"""Next-scale order: all codes of a grid at once, coarse grids first.

The input of a scale is the sum of everything generated so far, reduced to
that scale's grid; the first scale has start symbols instead (VAR, arXiv
2404.02905, section 3.1). The likelihood factorises over scales and, within
a scale, over positions: the loss is exact.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.orders.base import Choice, Given, Turn, block_steps
from varjax.orders.features import FeatureOrder
from varjax.tokenizers import msvq
from varjax.types import Codes, Example, Layout


@flax.struct.dataclass
class Scales:
  """A generation between two scales."""

  sum: jax.Array  # [B, P, P, C], features of the scales so far
  inputs: jax.Array | None  # [B, T, C] of the next scale; None: the first


@dataclasses.dataclass(frozen=True)
class ScaleOrder(FeatureOrder):
  """The order of VAR; it has no settings."""

  @functools.cached_property
  def layout(self) -> Layout:
    """Static shapes; each scale is a block, the first is start symbols."""
    return self.blocks(self.code_spec.block_sizes)

  @property
  def turns(self) -> int:
    """One for each scale."""
    return len(self.code_spec.grids)

  @property
  def alike(self) -> tuple[int, ...]:
    """No two scales have the same shapes."""
    return tuple(range(self.turns))

  def example(
    self, quantizer: msvq.Quantizer, codes: Codes, keys: jax.Array | None = None
  ) -> Example:
    """Codes [B, L, 1] with the inputs of teacher forcing [B, L-S, C]."""
    del keys
    return Example(
      inputs=msvq.teacher_inputs(quantizer, codes),
      targets=codes,
      weights=jnp.ones(codes.shape[:2], jnp.float32),
      positions=jnp.arange(self.layout.positions, dtype=jnp.int32)[None],
      steps=block_steps(self.layout),
    )

  def start(
    self, quantizer: msvq.Quantizer, keys: jax.Array, given: Given | None
  ) -> Scales:
    """Summed features before the first scale: zeros."""
    del given
    return Scales(msvq.start(quantizer, keys.shape[0]), None)

  def turn(self, state: Scales, step: int, like: int) -> Turn:
    """Reads the sum so far and asks for a whole scale."""
    del like
    start, stop = self.code_spec.offsets[step : step + 2]
    positions = jnp.arange(start, stop, dtype=jnp.int32)[None]
    return Turn(state.inputs, positions, positions)

  def advance(
    self,
    quantizer: msvq.Quantizer,
    state: Scales,
    choice: Choice,
    step: int,
    like: int,
  ) -> Scales:
    """Adds one scale, and makes the inputs of the next."""
    del like
    return Scales(*msvq.advance(quantizer, state.sum, choice.features, step))

  def finish(self, state: Scales) -> tuple[None, Float[Array, 'B P P C']]:
    """The finished sum is what the decoder reads."""
    return None, state.sum

"""Raster order: one token at a time, row by row.

Next-token prediction of VQGAN (arXiv 2012.09841) and LlamaGen (2406.06525)
on grid codes, next-pixel prediction of ImageGPT (Chen et al. 2020) on the
codes of a 'pixel' tokenizer. The likelihood is exact.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from varjax.orders.base import Choice, Turn
from varjax.orders.flat import Canvas, FlatOrder, take
from varjax.types import Codes, Example, Layout, PyTree


@dataclasses.dataclass(frozen=True)
class RasterOrder(FlatOrder):
  """A token is read where the next one is predicted."""

  loss_kind = 'exact'

  @functools.cached_property
  def layout(self) -> Layout:
    """Every token is a step; the first has the start symbol."""
    return self.base_layout()

  @property
  def turns(self) -> int:
    """One for each token."""
    return self.count

  @functools.cached_property
  def alike(self) -> tuple[int, ...]:
    """All but the first, which has no input."""
    return (0, *(1,) * (self.count - 1))

  def example(
    self, quantizer: PyTree, codes: Codes, keys: jax.Array | None = None
  ) -> Example:
    """Codes [B, L, R] with the inputs of teacher forcing [B, N-1, 1]."""
    del quantizer
    sequence = self.sequences(keys)
    tokens = take(self.tokens_of(codes), sequence)
    return Example(
      inputs=self.symbols_of(tokens, sequence)[:, :-1, None],
      targets=tokens[..., None],
      weights=jnp.ones(tokens.shape, jnp.float32),
      positions=sequence,
      steps=jnp.arange(self.count, dtype=jnp.int32)[None],
      origins=sequence[:, :-1] if self.layout.num_origins else None,
    )

  def turn(self, state: Canvas, step: int | jax.Array, like: int) -> Turn:
    """Reads the token before and asks for the one at `step`."""
    here = self._number(state, step)
    if not like:
      return Turn(None, here, here)
    before = self._number(state, step - 1)
    symbol = self.symbols_of(take(state.tokens, before), before)
    origins = before if self.layout.num_origins else None
    return Turn(symbol[..., None], here, here, origins=origins)

  def advance(
    self,
    quantizer: PyTree,
    state: Canvas,
    choice: Choice,
    step: int | jax.Array,
    like: int,
  ) -> Canvas:
    """Puts the token at `step`."""
    del quantizer, like
    return self.put(state, choice, self._number(state, step))

  def _number(self, state: Canvas, step: int | jax.Array) -> Int[Array, '#B 1']:
    return jnp.take(state.sequence, step, axis=1)[:, None]

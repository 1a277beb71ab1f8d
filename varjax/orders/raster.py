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

from varjax.orders.base import Choice, Turn
from varjax.orders.flat import Canvas, FlatOrder
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
    del quantizer, keys
    tokens = self.tokens_of(codes)
    numbers = jnp.arange(self.count, dtype=jnp.int32)[None]
    return Example(
      inputs=self.symbols_of(tokens, numbers)[:, :-1, None],
      targets=tokens[..., None],
      weights=jnp.ones(tokens.shape, jnp.float32),
      positions=numbers,
      steps=numbers,
    )

  def turn(self, state: Canvas, step: int | jax.Array, like: int) -> Turn:
    """Reads the token before and asks for the one at `step`."""
    here = jnp.full((1, 1), step, jnp.int32)
    inputs = None
    if like:
      before = here - 1
      token = jnp.take(state.tokens, before[0], axis=1)
      inputs = self.symbols_of(token, before)[..., None]
    return Turn(inputs, here, here)

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
    return self.put(state, choice, jnp.full((1, 1), step, jnp.int32))

"""Masked order: all tokens in a few turns, the surest first.

Trained to fill in a random part of the tokens from the rest (MaskGIT, arXiv
2202.04200). Decoding starts from masks alone; every turn predicts all that
is masked and keeps the most confident part, by a cosine schedule. The mean
over the masked tokens is a surrogate of the likelihood with MaskGIT's ratio
of masks, and a bound on it where every number of masks is equally likely
(order-agnostic autoregression: arXiv 2110.02037, equation 4).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from varjax import errors
from varjax.orders.base import Choice, Turn
from varjax.orders.flat import Canvas, FlatOrder
from varjax.types import Codes, Example, Layout, PyTree


@dataclasses.dataclass(frozen=True)
class MaskedOrder(FlatOrder):
  """One block: a start symbol and all tokens, some of them masked."""

  cached = False

  @property
  def loss_kind(self) -> str:
    """A bound with uniform numbers of masks, otherwise a surrogate.

    Raises:
      ConfigError: an unknown ratio.
    """
    kinds = {'uniform': 'bound', 'cosine': 'surrogate'}
    if self.order.mask_ratio not in kinds:
      raise errors.ConfigError(
        f'order.mask_ratio={self.order.mask_ratio!r}: must be one of '
        f'{", ".join(kinds)}'
      )
    return kinds[self.order.mask_ratio]

  @functools.cached_property
  def layout(self) -> Layout:
    """The start symbol carries the class and predicts nothing."""
    rows = self.count + 1
    return self.base_layout(
      positions=rows,
      block_sizes=(rows,),
      symbols=self.alphabet + 1,
      num_positions=rows,
    )

  @property
  def turns(self) -> int:
    """Forward passes of a generation.

    Raises:
      ConfigError: less than one.
    """
    if self.order.turns < 1:
      raise errors.ConfigError(
        f'order.turns={self.order.turns}: must be at least 1'
      )
    return self.order.turns

  @property
  def alike(self) -> tuple[int, ...]:
    """All turns read everything."""
    return (0,) * self.turns

  def example(
    self, quantizer: PyTree, codes: Codes, keys: jax.Array
  ) -> Example:
    """Codes [B, L, R] with a random part masked."""
    del quantizer
    return self.with_masks(codes, jax.vmap(self._masks)(keys))

  def with_masks(self, codes: Codes, masked: Bool[Array, 'B N']) -> Example:
    """Codes [B, L, R] with given masks; at least one token is masked."""
    tokens = self.tokens_of(codes)
    rows = self.layout.positions
    share = jnp.sum(masked, axis=1, keepdims=True)
    targets = jnp.pad(tokens, ((0, 0), (1, 0)))
    return Example(
      inputs=self._inputs(tokens, masked),
      targets=targets[..., None],
      weights=jnp.pad(masked * (rows / share), ((0, 0), (1, 0))),
      positions=self._positions(),
      steps=jnp.zeros((1, rows), jnp.int32),
    )

  def turn(self, state: Canvas, step: int | jax.Array, like: int) -> Turn:
    """Reads what is done and masks, and asks for everything."""
    del step, like
    positions = self._positions()
    inputs = self._inputs(state.tokens, ~state.done)
    return Turn(inputs, positions, positions[:, 1:], first=1)

  def advance(
    self,
    quantizer: PyTree,
    state: Canvas,
    choice: Choice,
    step: int | jax.Array,
    like: int,
  ) -> Canvas:
    """Keeps the surest of the masked tokens; what is done stays."""
    del quantizer, like
    done = state.done
    tokens = jnp.where(done, state.tokens, choice.codes[..., 0])
    ratio = (step + 1) / self.turns
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (self.count,)))
    spread = self.order.temperature * (1 - ratio)
    sure = choice.confidence + spread * noise(choice.keys)
    sure = jnp.where(done, jnp.inf, sure)
    left = _still_masked(jnp.sum(~state.given, axis=1), done, ratio)
    rank = jnp.argsort(jnp.argsort(sure, axis=1), axis=1)
    return state.replace(tokens=tokens, done=rank >= left[:, None])

  def _masks(self, key: jax.Array) -> Bool[Array, ' N']:
    """The masks of one image."""
    for_count, for_places = jax.random.split(key)
    if self.order.mask_ratio == 'uniform':
      count = jax.random.randint(for_count, (), 1, self.count + 1)
    else:
      angle = jax.random.uniform(for_count) * (math.pi / 2)
      count = jnp.ceil(self.count * jnp.cos(angle))
    places = jax.random.permutation(for_places, self.count)
    return places < jnp.maximum(count, 1)

  def _inputs(
    self, tokens: Int[Array, 'B N'], masked: Bool[Array, 'B N']
  ) -> Int[Array, 'B N 1']:
    numbers = jnp.arange(self.count)[None]
    symbols = self.symbols_of(tokens, numbers)
    return jnp.where(masked, self.alphabet, symbols)[..., None]

  def _positions(self) -> Int[Array, '1 L']:
    """The row of the start symbol is the last of the table."""
    numbers = jnp.arange(self.layout.positions, dtype=jnp.int32)
    return jnp.roll(numbers, 1)[None]


def _still_masked(
  unknown: Int[Array, ' B'],
  done: Bool[Array, 'B N'],
  ratio: float | jax.Array,
) -> Int[Array, ' B']:
  """Tokens that stay masked after a turn (cosine schedule).

  Every turn but the last keeps at least one masked token and, as long as
  there are two, decides at least one.

  Args:
    unknown: tokens to generate in all.
    done: before this turn.
    ratio: share of the turns made, this one included.
  """
  left = jnp.floor(unknown * jnp.cos(ratio * (math.pi / 2)))
  now = jnp.sum(~done, axis=1)
  left = jnp.clip(left, 1, jnp.maximum(now - 1, 1))
  left = jnp.where(ratio >= 1, 0, jnp.minimum(left, now))
  return left.astype(jnp.int32)

"""What the transformer says of a turn: its two halves and its cache.

Guidance compares a conditional and an unconditional half of one batch. Turns
without guidance run the first half alone. The cache then lacks what the
second half would have stored; where guidance follows, that is computed in
one pass over all that was missed, since both halves read the same inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.models.block import KeyValue
from varjax.models.cache import Cache, empty
from varjax.models.transformer import Transformer
from varjax.orders.base import Order, Turn
from varjax.types import PyTree


class Reader:
  """Turns to hidden states and logits: with a cache, or all of it anew."""

  def __init__(
    self,
    model: Transformer,
    params: PyTree,
    order: Order,
    labels: Int[Array, ' B'],
    guided: range,
    cache_dtype: str = '',
  ):
    """Computes all that follows from the labels alone.

    Args:
      model, params, order: whose turns are read.
      labels: class of each image; num_classes is "no class".
      guided: turns that both halves run.
      cache_dtype: see `cache.empty`.
    """
    self._apply = functools.partial(model.apply, {'params': params})
    self._order = order
    self._images = labels.shape[0]
    if guided:
      nobody = jnp.full_like(labels, model.spec.num_classes)
      labels = jnp.concatenate([labels, nobody])
    self._condition = self._apply(labels, method='condition')
    self._both_first = guided.start == 0 and len(guided) > 0
    self._empty = functools.partial(
      empty, model.spec, positions=order.layout.positions, dtype=cache_dtype
    )

  def empty_cache(self) -> Cache | None:
    """The cache before the first turn, None where the order has none."""
    if not self._order.cached:
      return None
    return self._empty(self._images * (1 + self._both_first))

  def __call__(
    self,
    turn: Turn,
    cache: Cache | None,
    step: int | jax.Array,
    like: int,
    both: bool,
  ) -> tuple[Float[Array, 'B A D'], Cache | None]:
    """Hidden states of the rows that ask, and the cache with this turn.

    Args:
      turn, step, like: see `Order.turn`.
      cache: holds the turns before, of the halves that are run.
      both: whether both halves are run; the conditional one alone otherwise.
    """
    condition = self._half(None if both else False)
    inputs, positions, origins = (
      self._repeat(x, both) for x in (turn.inputs, turn.positions, turn.origins)
    )
    if self._order.cached:
      hidden, cache = self._apply(
        condition,
        inputs,
        cache,
        step,
        positions,
        origins,
        like,
        method='decode',
      )
    else:
      hidden = self._apply(
        condition, inputs, positions, origins=origins, method='trunk'
      )
    stop = turn.first + turn.targets.shape[1]
    return hidden[:, turn.first : stop], cache

  def classify(
    self,
    hidden: Float[Array, 'B A D'],
    features: Float[Array, 'B A C'] | None,
    stack: KeyValue | None,
    both: bool,
  ) -> tuple[Float[Array, 'B A R V'], KeyValue | None]:
    """Logits of one round, and what the next one takes as `stack`."""
    return self._apply(
      self._half(None if both else False),
      hidden,
      self._repeat(features, both),
      stack,
      method='classify',
    )

  def catch_up(
    self, cache: Cache | None, missed: Sequence[Turn]
  ) -> Cache | None:
    """The cache of both halves, from that of the conditional one.

    Args:
      cache: of the conditional half.
      missed: all turns so far, those of a loop as one, of many rows.
    """
    if cache is None or not missed:
      return cache
    inputs, positions, origins = (
      _in_a_row([getattr(turn, field) for turn in missed])
      for field in ('inputs', 'positions', 'origins')
    )
    new = self._apply(
      self._half(True), inputs, positions, origins, method='prefill'
    )
    return cache.beside(self._empty(self._images).write(new, 0))

  def drop(self, cache: Cache | None) -> Cache | None:
    """The cache of the conditional half alone."""
    return None if cache is None else cache.images(None, self._images)

  def _half(self, unconditional: bool | None) -> PyTree:
    """The condition of one half of the batch; None: of both."""
    condition, images = self._condition, self._images
    if unconditional is None or condition.embedding.shape[0] == images:
      return condition
    half = slice(images, None) if unconditional else slice(None, images)

    def part(x, axis=0):
      return None if x is None else x[(slice(None),) * axis + (half,)]

    return condition.replace(
      embedding=part(condition.embedding),
      blocks=part(condition.blocks, 1),
      head=part(condition.head),
    )

  def _repeat(self, x: jax.Array | None, both: bool) -> jax.Array | None:
    """For both halves; one row for all images stays one."""
    if x is None or not both or x.shape[0] == 1 < self._images:
      return x
    return jnp.concatenate([x, x])


def _in_a_row(parts: Sequence[jax.Array | None]) -> jax.Array | None:
  """Arrays [#B, T, ...] after each other; None is of no length."""
  there = [part for part in parts if part is not None]
  if not there:
    return None
  rows = max(part.shape[0] for part in there)
  return jnp.concatenate(
    [jnp.broadcast_to(part, (rows, *part.shape[1:])) for part in there], axis=1
  )

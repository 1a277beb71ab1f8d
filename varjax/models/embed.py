"""The input side: class, start, word, position and step embeddings.

VAR section 3.2 and the official `VAR.forward`: the start symbols are the
class embedding plus `start`; every other position has an input vector; all
get a position and a step ("level") embedding. Everything here is float32.
"""

from __future__ import annotations

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax import errors
from varjax.models import dense
from varjax.models.adaln import init_std
from varjax.spec import ModelSpec
from varjax.types import Layout


class Embed(nn.Module):
  """Labels and inputs to the first hidden state.

  Parameters: classes/embedding [classes + 1, D], start [S, D],
  pos [num_positions, D] (learned positions), level [num_steps, D] and
  origin [num_origins, D] (if the order has them), and word/kernel [C, D]
  with bias, or word/embedding [R, symbols, D] for codes.
  """

  spec: ModelSpec
  layout: Layout

  def setup(self) -> None:
    """Declares the tables.

    Raises:
      ConfigError: an order whose inputs are of no known kind.
    """
    spec, layout = self.spec, self.layout
    width, std = spec.width, init_std(spec)
    # The constructor's value upstream, which `init_std` does not change.
    table_std = math.sqrt(1 / (3 * width))
    self.classes = _Table((spec.num_classes + 1, width), std, 'classes')
    if layout.start:
      self.start = self.param(
        'start', dense.normal(table_std, (None, 'embed')), (layout.start, width)
      )
    if spec.position == 'learned':
      self.pos = self.param(
        'pos',
        dense.normal(table_std, (None, 'embed')),
        (layout.num_positions, width),
      )
    if layout.num_origins:
      self.origin = self.param(
        'origin',
        dense.normal(table_std, (None, 'embed')),
        (layout.num_origins, width),
      )
    if layout.num_steps:
      self.level = self.param(
        'level', dense.normal(std, (None, 'embed')), (layout.num_steps, width)
      )
    if layout.input_kind == 'features':
      self.word = dense.dense(width, std, (None, 'embed'))
    elif layout.input_kind == 'codes':
      shape = (layout.input_dim, layout.input_symbols, width)
      self.word = _Table(shape, std, 'vocab')
    else:
      raise errors.ConfigError(
        f'layout.input_kind={layout.input_kind!r}: must be one of features, '
        'codes'
      )

  def condition(self, labels: Int[Array, ' B']) -> Float[Array, 'B D']:
    """Class embedding; index num_classes is "no class"."""
    # Rows looked up in a table that is cut by columns would have to change
    # places with the batch: the table is gathered, as every weight is.
    table = nn.with_logical_constraint(self.classes(), (None, None))
    rows = jnp.take(table, labels, axis=0)
    return nn.with_logical_constraint(rows, ('batch', 'embed'))

  def __call__(
    self,
    condition: Float[Array, 'B D'],
    inputs: jax.Array | None,
    positions: Int[Array, '#B L'],
    steps: Int[Array, '#B L'],
    start: bool = True,
    origins: Int[Array, '#B LminusS'] | None = None,
  ) -> Float[Array, 'B L D']:
    """Embeds `start` symbols (if any) followed by `inputs`.

    Args:
      condition: class embedding.
      inputs: features [B, T, C], codes [B, T, R], or None for no input.
      positions, steps: table rows, of the start symbols too.
      start: whether the start symbols come first.
      origins: where the inputs lie, if the order says so.
    """
    parts = []
    if start and self.layout.start:
      parts.append(condition[:, None, :] + self.start[None])
    if inputs is not None:
      word = self._word(inputs)
      if origins is not None:
        word = word + jnp.take(self.origin, origins, axis=0)
      parts.append(word)
    x = jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    if self.spec.position == 'learned':
      table = jnp.take(self.pos, positions, axis=0)
      if self.layout.num_steps:
        # The two tables first: the sum of VAR, to the last bit.
        table = table + jnp.take(self.level, steps, axis=0)
      rows = 'batch' if table.shape[0] > 1 else None
      table = nn.with_logical_constraint(table, (rows, 'length', None))
      return x + table
    if self.layout.num_steps:
      x = x + jnp.take(self.level, steps, axis=0)
    return x

  def _word(self, inputs: jax.Array) -> jax.Array:
    if self.layout.input_kind == 'features':
      x = self.word(inputs.astype(jnp.float32))
      return nn.with_logical_constraint(x, ('batch', 'length', 'embed'))
    table = self.word()
    # One table per code of a position; a position is their sum.
    rows = [
      jnp.take(table[r], inputs[..., r], axis=0)
      for r in range(self.layout.input_dim)
    ]
    return sum(rows[1:], start=rows[0])


class _Table(nn.Module):
  """An embedding table, named so that weight decay applies to it."""

  shape: tuple[int, ...]
  std: float
  axis: str

  @nn.compact
  def __call__(self) -> jax.Array:
    """Returns the whole table."""
    axes = (None,) * (len(self.shape) - 2) + (self.axis, 'embed')
    return self.param('embedding', dense.normal(self.std, axes), self.shape)


def drop_labels(
  rng: jax.Array, labels: Int[Array, ' B'], rate: float, num_classes: int
) -> Int[Array, ' B']:
  """Replaces each label by "no class" with probability `rate`.

  What classifier-free guidance needs (arXiv 2207.12598).

  Args:
    rng: one key for the batch.
    labels: class index of each image.
    rate: 0 draws nothing.
    num_classes: the index of "no class".
  """
  if not rate:
    return labels
  dropped = jax.random.bernoulli(rng, rate, labels.shape)
  return jnp.where(dropped, num_classes, labels)

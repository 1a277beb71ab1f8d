"""What the orders of single codes have in common.

They see the codes of an image as one sequence of N = L R tokens, position by
position and code by code, whatever the tokenizer is: grid codes, several
scales, residual stacks, or the channels of pixels. A token is embedded by a
table, with an alphabet of its own for each code of a position. Tokens stay
in this numbering; what an order permutes are the numbers.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from varjax.orders.base import Choice, Given
from varjax.spec import OrderSpec, TokenizerSpec
from varjax.tokenizers.base import code_spec
from varjax.types import Codes, CodeSpec, Layout, PyTree


@flax.struct.dataclass
class Canvas:
  """Tokens during a generation, and the sequence in which they come."""

  tokens: jax.Array  # [B, N] int32; what is not generated yet is 0
  done: jax.Array  # [B, N] bool
  given: jax.Array  # [B, N] bool, done from the start
  sequence: jax.Array  # [B, N] or [1, N] int32, token number of each step


@dataclasses.dataclass(frozen=True)
class FlatOrder:
  """Base of the orders of tokens; see `orders.base.Order` for the methods.

  Attributes:
    spec: the tokenizer whose codes are ordered.
    order: the settings of the order.
  """

  spec: TokenizerSpec
  order: OrderSpec = OrderSpec()
  cached = True

  @functools.cached_property
  def code_spec(self) -> CodeSpec:
    """Grids and alphabet."""
    return code_spec(self.spec)

  @property
  def count(self) -> int:
    """Tokens of an image, N."""
    return self.code_spec.positions * self.code_spec.codes_per_position

  @property
  def alphabet(self) -> int:
    """Symbols of all codes of a position; the next one is free for masks."""
    return self.code_spec.vocab * self.code_spec.codes_per_position

  def base_layout(self, **changes) -> Layout:
    """The layout of N rows, with `changes`."""
    codes = self.code_spec
    layout = Layout(
      positions=self.count,
      start=1,
      block_sizes=(1,) * self.count,
      input_kind='codes',
      input_dim=1,
      targets_per_position=1,
      vocab=codes.vocab,
      num_positions=self.count,
      num_steps=0,
      symbols=self.alphabet,
      tokens=self.count,
      grids=codes.grids,
      per_cell=codes.codes_per_position,
    )
    return dataclasses.replace(layout, **changes)

  def tokens_of(self, codes: Codes) -> Int[Array, 'B N']:
    """Codes [B, L, R] as tokens."""
    return codes.reshape(codes.shape[0], self.count)

  def symbols_of(
    self, tokens: Int[Array, 'B T'], numbers: Int[Array, '#B T']
  ) -> Int[Array, 'B T']:
    """Rows of the embedding table of tokens, by their numbers in [0, N)."""
    per_position = self.code_spec.codes_per_position
    return tokens + self.code_spec.vocab * (numbers % per_position)

  def start(
    self, quantizer: PyTree, keys: jax.Array, given: Given | None
  ) -> Canvas:
    """A canvas with the given tokens."""
    del quantizer
    shape = (keys.shape[0], self.count)
    tokens, done = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)
    if given is not None:
      done = given.keep
      tokens = jnp.where(done, given.codes[..., 0], tokens)
    return Canvas(tokens, done, done, self.sequences(keys))

  def sequences(self, keys: jax.Array) -> Int[Array, '#B N']:
    """Numbers of the tokens in the sequence of each image: 0, 1, 2, ..."""
    del keys
    return jnp.arange(self.count, dtype=jnp.int32)[None]

  def embed(self, quantizer: PyTree, codes: jax.Array) -> jax.Array:
    """Tokens have no features; the codes stand for themselves."""
    del quantizer
    return codes

  def put(self, canvas: Canvas, choice: Choice, targets: jax.Array) -> Canvas:
    """The canvas with the chosen tokens at the numbers `targets`."""
    rows = jnp.arange(canvas.tokens.shape[0])[:, None]
    where = (rows, targets)
    return canvas.replace(
      tokens=canvas.tokens.at[where].set(choice.codes[..., 0]),
      done=canvas.done.at[where].set(True),
    )

  def finish(self, state: Canvas) -> tuple[Codes, None]:
    """The tokens as codes; the tokenizer decodes them."""
    codes = self.code_spec
    shape = (-1, codes.positions, codes.codes_per_position)
    return state.tokens.reshape(shape), None


def take(values: jax.Array, index: jax.Array) -> jax.Array:
  """`values[b, index[b]]`; either may have one row for all images."""
  rows = max(values.shape[0], index.shape[0])
  values = jnp.broadcast_to(values, (rows, *values.shape[1:]))
  index = jnp.broadcast_to(index, (rows, *index.shape[1:]))
  return jnp.take_along_axis(values, index, axis=1)


def shuffle(keys: jax.Array, count: int) -> Int[Array, 'B N']:
  """A uniformly random permutation for each key."""
  draw = functools.partial(jax.random.permutation, x=count)
  return jax.vmap(draw)(keys).astype(jnp.int32)

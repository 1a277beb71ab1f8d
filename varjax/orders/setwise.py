"""Set-wise order: any permutation of the tokens, cut into sets.

A set is predicted at once, given all earlier ones (SAR, arXiv 2410.10511).
Raster, random and masked orders are points of it: singletons of the raster,
singletons of a random permutation, and one set after given tokens. How
earlier sets enter is the `context`:

  shifted   row j of a set reads token j of the set before and predicts token
            j of its own; the longer of the two sets decides the rows. For
            singletons this is next-token prediction.
  separate  the tokens of the set before have rows of their own, and what is
            predicted is asked by mask symbols (two streams). For one set
            after given tokens this is masked prediction.

The likelihood is exact, but for what is given and not predicted.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
import numpy as np

from varjax import errors
from varjax.orders.base import Choice, Turn, block_steps
from varjax.orders.flat import Canvas, FlatOrder, shuffle, take
from varjax.types import Codes, Example, Layout, PyTree

_NOTHING = -1  # No token in the sequence.


@dataclasses.dataclass(frozen=True)
class _Block:
  """Rows of one step, as places in the sequence; `_NOTHING` where none.

  Attributes:
    read: the token whose symbol a row reads, after the start symbols.
    asked: the token that a row predicts.
    first: the first row that predicts; `count` of them follow.
    count: size of the set.
    place: where the set begins in the sequence.
  """

  read: np.ndarray
  asked: np.ndarray
  first: int
  count: int
  place: int

  def shape(self) -> tuple:
    """What two steps of one traced loop have in common."""
    moved = [
      tuple(None if p == _NOTHING else p - self.place for p in places)
      for places in (self.read, self.asked)
    ]
    return (self.first, *moved)


@dataclasses.dataclass(frozen=True)
class SetwiseOrder(FlatOrder):
  """Sets of a permutation, one after the other."""

  @property
  def loss_kind(self) -> str:
    """Exact, unless tokens are given that nothing predicts."""
    return 'surrogate' if self.order.given else 'exact'

  @functools.cached_property
  def sets(self) -> tuple[int, ...]:
    """Sizes of the sets.

    Raises:
      ConfigError: they are not the tokens of an image, or tokens are given
        in a shifted context, where nothing could read them.
    """
    given, sets = self.order.given, self.order.sets
    sets = sets or (1,) * (self.count - given)
    if min(sets, default=0) < 1 or sum(sets) + given != self.count:
      raise errors.ConfigError(
        f'order.sets={sets}: must be positive and sum to {self.count}, the '
        f'tokens of an image, less order.given={given}'
      )
    if given and self.order.context == 'shifted':
      raise errors.ConfigError(
        f'order.given={given}: needs order.context=separate'
      )
    return sets

  @functools.cached_property
  def blocks(self) -> tuple[_Block, ...]:
    """The rows of every step.

    Raises:
      ConfigError: an unknown context, or sets that do not fit an image.
    """
    make = {'shifted': _shifted, 'separate': _separate}
    if self.order.context not in make:
      raise errors.ConfigError(
        f'order.context={self.order.context!r}: must be one of shifted, '
        'separate'
      )
    blocks, before, place = [], self.order.given, self.order.given
    for size in self.sets:
      seen = np.arange(place - before, place)
      asked = np.arange(place, place + size)
      blocks.append(make[self.order.context](seen, asked, not blocks))
      before, place = size, place + size
    return tuple(blocks)

  @functools.cached_property
  def layout(self) -> Layout:
    """Blocks of the sets, and tables for rows that read or ask nothing."""
    shifted = self.order.context == 'shifted'
    sizes = tuple(len(block.asked) for block in self.blocks)
    # A separate context has one start symbol, the row without a place.
    start = sizes[0] if shifted else 1
    blank = int(_NOTHING in self._rows('read')[start:])
    drawn = shifted and self.order.permutation == 'random'
    idle = not shifted or _NOTHING in self._rows('asked')
    return self.base_layout(
      positions=sum(sizes),
      start=start,
      block_sizes=sizes,
      symbols=self.alphabet + blank,
      num_positions=self.count + int(idle),
      num_origins=(self.count + blank) * drawn,
    )

  @property
  def turns(self) -> int:
    """One for each set."""
    return len(self.sets)

  @functools.cached_property
  def alike(self) -> tuple[int, ...]:
    """Steps whose own set and the one before have the same sizes."""
    found = [0]
    for step, (before, block) in enumerate(itertools.pairwise(self.blocks), 1):
      same = step > 1 and before.shape() == block.shape()
      found.append(found[-1] if same else step)
    return tuple(found)

  def sequences(self, keys: jax.Array) -> Int[Array, '#B N']:
    """The permutation, one row where all images share it.

    Raises:
      ConfigError: an unknown permutation.
    """
    if self.order.permutation == 'random':
      return shuffle(keys, self.count)
    fixed = {'raster': np.arange(self.count), 'coarse': self._coarse()}
    if self.order.permutation not in fixed:
      raise errors.ConfigError(
        f'order.permutation={self.order.permutation!r}: must be one of '
        'raster, coarse, random'
      )
    return jnp.asarray(fixed[self.order.permutation], jnp.int32)[None]

  def example(
    self, quantizer: PyTree, codes: Codes, keys: jax.Array | None = None
  ) -> Example:
    """Codes [B, L, R] as the rows of all sets."""
    del quantizer
    sequence = self.sequences(keys)
    tokens, layout = self.tokens_of(codes), self.layout
    read, asked = self._rows('read'), self._rows('asked')
    asks = asked != _NOTHING
    inputs, origins = self._inputs(tokens, sequence, read[layout.start :])
    wanted = take(tokens, _numbers(sequence, asked, 0))
    weights = asks * np.float32(len(asks) / asks.sum())
    return Example(
      inputs=inputs,
      targets=jnp.where(asks[None], wanted, 0)[..., None],
      weights=jnp.broadcast_to(jnp.asarray(weights)[None], wanted.shape),
      positions=self._positions(sequence, read, asked),
      steps=block_steps(layout),
      origins=origins,
    )

  def turn(self, state: Canvas, step: int | jax.Array, like: int) -> Turn:
    """Reads the set before and asks for the one at `step`."""
    block = self.blocks[like]
    moved = self._places[step] - block.place
    read, asked = _move(block.read, moved), _move(block.asked, moved)
    start = 0 if like else self.layout.start
    inputs = origins = None
    if start < len(block.read):
      inputs, origins = self._inputs(state.tokens, state.sequence, read[start:])
    stop = block.first + block.count
    return Turn(
      inputs=inputs,
      positions=self._positions(state.sequence, read, asked),
      targets=_numbers(state.sequence, asked[block.first : stop], 0),
      origins=origins,
      first=block.first,
    )

  def advance(
    self,
    quantizer: PyTree,
    state: Canvas,
    choice: Choice,
    step: int | jax.Array,
    like: int,
  ) -> Canvas:
    """Puts the set at `step`."""
    del quantizer
    block = self.blocks[like]
    places = self._places[step] + np.arange(block.count)
    return self.put(state, choice, _numbers(state.sequence, places, 0))

  @property
  def _places(self) -> jax.Array:
    """Where each set begins in the sequence; indexed by traced steps."""
    return jnp.asarray([block.place for block in self.blocks], jnp.int32)

  def _rows(self, field: str) -> np.ndarray:
    return np.concatenate([getattr(block, field) for block in self.blocks])

  def _inputs(
    self, tokens: jax.Array, sequence: jax.Array, read: jax.Array | np.ndarray
  ) -> tuple[jax.Array, jax.Array | None]:
    """Symbols [B, T, 1] of the rows that read `read`, and their origins."""
    numbers = _numbers(sequence, read, 0)
    symbols = self.symbols_of(take(tokens, numbers), numbers)
    symbols = jnp.where((read == _NOTHING)[None], self.alphabet, symbols)
    if not self.layout.num_origins:
      return symbols[..., None], None
    return symbols[..., None], _numbers(sequence, read, self.count)

  def _positions(
    self,
    sequence: jax.Array,
    read: jax.Array | np.ndarray,
    asked: jax.Array | np.ndarray,
  ) -> Int[Array, '#B T']:
    """What the rows predict; in a separate context else what they read."""
    if self.order.context == 'shifted':
      return _numbers(sequence, asked, self.count)
    return _numbers(
      sequence, jnp.where(asked == _NOTHING, read, asked), self.count
    )

  def _coarse(self) -> np.ndarray:
    """Tokens of nested sub-grids, each of half the step of the one before.

    A grid of 8 x 8 gives sub-grids of 1, 3, 12 and 48 new cells. Several
    grids follow each other.
    """
    numbers, start = [], 0
    for height, width in self.code_spec.grids:
      rows, columns = np.divmod(np.arange(height * width), width)
      # The largest power of two that divides both coordinates.
      both = rows | columns | 1 << max(height, width).bit_length()
      level = both & -both
      numbers.append(start + np.argsort(-level, kind='stable'))
      start += height * width
    cells = np.concatenate(numbers)
    codes = np.arange(self.code_spec.codes_per_position)
    return (cells[:, None] * len(codes) + codes[None]).reshape(-1)


def _shifted(seen: np.ndarray, asked: np.ndarray, first: bool) -> _Block:
  """Rows that read one token and ask for another."""
  if first:
    seen = seen[:0]
  rows = max(len(seen), len(asked))
  read = np.full(rows, _NOTHING)
  read[: len(seen)] = seen
  asks = np.full(rows, _NOTHING)
  asks[: len(asked)] = asked
  return _Block(read, asks, 0, len(asked), asked[0])


def _separate(seen: np.ndarray, asked: np.ndarray, first: bool) -> _Block:
  """Rows that read a token, then rows that ask for one."""
  idle = np.full(int(first) + len(seen), _NOTHING)
  read = np.concatenate(
    [np.full(int(first), _NOTHING), seen, np.full(len(asked), _NOTHING)]
  )
  asks = np.concatenate([idle, asked])
  return _Block(read, asks, len(idle), len(asked), asked[0])


def _move(places: np.ndarray, by: int | jax.Array) -> Int[Array, ' T']:
  return jnp.where(places == _NOTHING, _NOTHING, places + by)


def _numbers(
  sequence: Int[Array, '#B N'],
  places: jax.Array | np.ndarray,
  nothing: int,
) -> Int[Array, '#B T']:
  """Token numbers at `places` [T] of the sequence, `nothing` where none."""
  numbers = jnp.take(sequence, jnp.maximum(places, 0), axis=1)
  return jnp.where((places == _NOTHING)[None], nothing, numbers)

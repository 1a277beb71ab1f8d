"""The Order seam: in which sequence codes are produced.

Every order reduces to the arrays of `types.Example` and one rule: position
q may attend to position k iff steps[q] >= steps[k]. Generation is the same
sequence in turns: what the transformer reads, which positions it is asked
for, and what their choice changes. An order has no model code in it;
`quantizer` is the frozen weights that a tokenizer exposes.
"""

from __future__ import annotations

from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
import numpy as np

from varjax.types import Codes, Example, Layout, PyTree


@flax.struct.dataclass
class Given:
  """Positions that are not to be generated, in the order's own positions."""

  codes: jax.Array  # [B, P, R] int32, P = layout.predicted
  keep: jax.Array  # [B, P] bool, true where codes are given


@flax.struct.dataclass
class Turn:
  """What the transformer reads at one step of a generation.

  The start symbols are rows of the first turn, without inputs.
  """

  inputs: jax.Array | None  # [B, T, C | R]; None: start symbols alone
  positions: jax.Array  # [B, T] or [1, T], as in `Example`
  targets: jax.Array  # [B, A] or [1, A], predicted position of rows that ask
  origins: jax.Array | None = None  # [B, T], as in `Example`
  # First of the A rows that ask for a code; they are consecutive.
  first: int = flax.struct.field(pytree_node=False, default=0)


@flax.struct.dataclass
class Choice:
  """What was chosen at the rows of a turn that ask."""

  codes: jax.Array  # [B, A, R] int32, given codes put in
  features: jax.Array  # [B, A, C] of `Order.embed`, or mixtures of them
  confidence: jax.Array  # [B, A], log probability of what was drawn
  keys: jax.Array  # [B] keys, for an order that draws


def block_steps(layout: Layout) -> Int[Array, '1 L']:
  """The step of each row, of an order whose steps are static blocks."""
  sizes = layout.block_sizes or ()
  steps = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
  return jnp.asarray(steps)[None]


class Order(Protocol):
  """Codes to training examples, and the matching generation turns.

  Attributes:
    layout: static shapes.
    loss_kind: what the loss is of the likelihood: 'exact', 'bound' or
      'surrogate'. Only equal kinds may be fitted together. An exact order
      makes the same sequence for every image with the same key.
    turns: steps of a generation.
    alike: for each turn, the first of the consecutive turns before it whose
      shapes are the same; those run as one traced loop.
    cached: whether turn k reads block k of the layout and finds the others
      in a cache; otherwise every turn reads the whole sequence.
  """

  layout: Layout
  loss_kind: str
  turns: int
  alike: tuple[int, ...]
  cached: bool

  def example(
    self, quantizer: PyTree, codes: Codes, keys: jax.Array | None = None
  ) -> Example:
    """Codes [B, L, R] as the transformer is trained on them.

    Args:
      quantizer: weights of the tokenizer.
      codes: of images.
      keys: one for each image [B]; only an order that draws needs them.
    """
    ...

  def start(
    self, quantizer: PyTree, keys: jax.Array, given: Given | None
  ) -> PyTree:
    """State of a generation before the first turn; a key per image [B]."""
    ...

  def turn(self, state: PyTree, step: int | jax.Array, like: int) -> Turn:
    """What is read at `step`, whose shapes are those of turn `like`."""
    ...

  def embed(self, quantizer: PyTree, codes: jax.Array) -> jax.Array:
    """Chosen codes [B, A, R] as features [B, A, C], if the order has them.

    Where the layout has several rounds, also the first few of the R codes.
    """
    ...

  def advance(
    self,
    quantizer: PyTree,
    state: PyTree,
    choice: Choice,
    step: int | jax.Array,
    like: int,
  ) -> PyTree:
    """The state after the choice at `step`."""
    ...

  def finish(self, state: PyTree) -> tuple[Codes | None, jax.Array | None]:
    """The finished generation.

    Returns:
      Codes [B, L, R], given ones put in, where the order keeps them (None:
      they are what was drawn), and decoder features [B, P, P, C] (None: the
      tokenizer decodes the codes).
    """
    ...

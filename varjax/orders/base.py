"""The Order seam: in which sequence codes are produced.

Every order reduces to the arrays of `types.Example` and one rule: position
q may attend to position k iff steps[q] >= steps[k]. An order has no model
code in it; `quantizer` is the frozen weights that a tokenizer exposes.
"""

from __future__ import annotations

from typing import Protocol

import jax

from varjax.types import Codes, Example, Layout, PyTree


class Order(Protocol):
  """Codes to training examples, and the matching generation steps.

  `loss_kind` says what the training loss is of the likelihood: 'exact',
  'bound' or 'surrogate'. Only equal kinds may be fitted together.
  """

  layout: Layout
  loss_kind: str

  def example(self, quantizer: PyTree, codes: Codes) -> Example:
    """Codes [B, L, R] as the transformer is trained on them."""
    ...

  def start(self, batch: int) -> PyTree:
    """State of the generation before the first step."""
    ...

  def embed(self, quantizer: PyTree, codes: jax.Array) -> jax.Array:
    """Codes [B, T, R] of one step as features [B, T, C]."""
    ...

  def advance(
    self, quantizer: PyTree, state: PyTree, features: jax.Array, step: int
  ) -> tuple[PyTree, jax.Array | None]:
    """Takes the features [B, T, C] chosen at `step`.

    Returns:
      The new state, and the inputs of the next step (None after the last).
    """
    ...

  def features(self, state: PyTree) -> jax.Array:
    """The finished generation as decoder features [B, P, P, C]."""
    ...

"""The Discriminator seam: what tells real images from reconstructions.

Stage 1 with an adversarial loss trains one beside the tokenizer (VQGAN,
arXiv 2012.09841). It is a frozen dataclass without weights, like a
tokenizer, and is only ever used in training, so that its normalisation
needs the statistics of the batch alone and keeps none.
"""

from __future__ import annotations

from typing import Protocol

import jax

from varjax.types import PyTree


class Discriminator(Protocol):
  """Images [B, H, W, 3] in [-1, 1] to logits [B, n], high where real."""

  def init(self, rng: jax.Array) -> tuple[PyTree, PyTree]:
    """Returns (weights with logical axis names, state)."""
    ...

  def prepare(self, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """The weights as `logits` uses them, and the state, once an update."""
    ...

  def logits(
    self, weights: PyTree, frozen: PyTree, images: jax.Array, rng: jax.Array
  ) -> jax.Array:
    """What each patch of each image looks like.

    Args:
      weights: of `prepare`.
      frozen: weights of a network that is not trained, or {}.
      images: not clipped.
      rng: key of random crops.
    """
    ...

"""Permuted order: one token at a time, in a random sequence per image.

Each row is told where the token that it reads lies and which one it must
predict (target-position embeddings: SAIM, arXiv 2303.07274; RandAR,
2412.01827; XLNet's second stream made a sum). For a given permutation the
likelihood is exact; an evaluation uses one permutation for all images.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
from jaxtyping import Array, Int

from varjax.orders.flat import shuffle
from varjax.orders.raster import RasterOrder
from varjax.types import Layout


@dataclasses.dataclass(frozen=True)
class PermutedOrder(RasterOrder):
  """A token is read where the next of the permutation is predicted."""

  @functools.cached_property
  def layout(self) -> Layout:
    """Every token is a step, and says where what it reads lies."""
    return self.base_layout(num_origins=self.count)

  def sequences(self, keys: jax.Array) -> Int[Array, 'B N']:
    """A permutation for each key."""
    return shuffle(keys, self.count)

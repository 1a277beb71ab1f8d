"""Next-scale order whose scales are made in several sequential sets.

Between VAR, where all codes of a scale are independent given the coarser
ones, and one code at a time: scale k is cut into `order.splits[k]` sets of
every so-many-th position, and a set reads the sum of all scales before and of
the sets of its own scale before it (the set-wise order of arXiv 2410.10511 on
the multi-scale codes of 2404.02905). With one set per scale it is the scale
order. The likelihood is exact.
"""

from __future__ import annotations

import dataclasses
import functools

import einops
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from varjax import errors
from varjax.orders.base import Choice, Given, Turn, block_steps
from varjax.orders.features import FeatureOrder
from varjax.tokenizers import msvq
from varjax.tokenizers.resize import resize
from varjax.types import Codes, Example, Layout


@flax.struct.dataclass
class Parts:
  """A generation between two sets."""

  sum: jax.Array  # [B, P, P, C], features of the whole scales before
  part: jax.Array  # [B, T, C], features of the present scale, 0 where none
  inputs: jax.Array  # [B, T, C] of the next set; none for the first


@dataclasses.dataclass(frozen=True)
class SplitOrder(FeatureOrder):
  """Sets of scales, `order.splits` of each; () is one each."""

  @functools.cached_property
  def sets(self) -> tuple[tuple[int, np.ndarray], ...]:
    """(scale, cells of it) of every set.

    Raises:
      ConfigError: not one number for each scale, or more sets than cells.
    """
    sizes = self.code_spec.block_sizes
    splits = self.order.splits or (1,) * len(sizes)
    if len(splits) != len(sizes) or any(
      not 1 <= parts <= size for parts, size in zip(splits, sizes, strict=False)
    ):
      raise errors.ConfigError(
        f'order.splits={splits}: must have a number of sets for each scale, '
        f'between 1 and its {list(sizes)} codes'
      )
    return tuple(
      (scale, np.arange(first, size, parts))
      for scale, (size, parts) in enumerate(zip(sizes, splits, strict=True))
      for first in range(parts)
    )

  @functools.cached_property
  def layout(self) -> Layout:
    """Every set is a block; the first is start symbols."""
    return self.blocks(tuple(len(cells) for _, cells in self.sets))

  @property
  def turns(self) -> int:
    """One for each set."""
    return len(self.sets)

  @property
  def alike(self) -> tuple[int, ...]:
    """Sets of different scales are different programs."""
    return tuple(range(self.turns))

  def example(
    self, quantizer: msvq.Quantizer, codes: Codes, keys: jax.Array | None = None
  ) -> Example:
    """Codes [B, L, 1] by sets, with the inputs of teacher forcing."""
    del keys
    state = self.start(quantizer, codes[:, 0, 0], None)
    inputs = []
    for step in range(self.turns):
      inputs.append(state.inputs)
      features = self.embed(quantizer, codes[:, self._numbers(step)])
      state = self._put(quantizer, state, features, step)
    positions = np.concatenate([self._numbers(s) for s in range(self.turns)])
    return Example(
      inputs=jnp.concatenate(inputs, axis=1),
      targets=codes[:, positions],
      weights=jnp.ones(codes.shape[:2], jnp.float32),
      positions=jnp.asarray(positions, jnp.int32)[None],
      steps=block_steps(self.layout),
    )

  def start(
    self, quantizer: msvq.Quantizer, keys: jax.Array, given: Given | None
  ) -> Parts:
    """Nothing summed, and an empty first scale."""
    del given
    total = msvq.start(quantizer, keys.shape[0])
    return Parts(total, self._empty(total, 0), total[:, 0, :0])

  def turn(self, state: Parts, step: int, like: int) -> Turn:
    """Reads all sums so far and asks for one set."""
    del like
    numbers = jnp.asarray(self._numbers(step), jnp.int32)[None]
    return Turn(state.inputs if step else None, numbers, numbers)

  def advance(
    self,
    quantizer: msvq.Quantizer,
    state: Parts,
    choice: Choice,
    step: int,
    like: int,
  ) -> Parts:
    """Puts a set; its scale joins the sum when it is whole."""
    del like
    return self._put(quantizer, state, choice.features, step)

  def finish(self, state: Parts) -> tuple[None, Float[Array, 'B P P C']]:
    """The finished sum is what the decoder reads."""
    return None, state.sum

  def _numbers(self, step: int) -> np.ndarray:
    """Positions of a set in the codes of all scales."""
    scale, cells = self.sets[step]
    return self.code_spec.offsets[scale] + cells

  def _empty(self, total: jax.Array, scale: int) -> Float[Array, 'B T C']:
    cells = self.code_spec.block_sizes[scale]
    return jnp.zeros((total.shape[0], cells, total.shape[-1]), total.dtype)

  def _put(
    self,
    quantizer: msvq.Quantizer,
    state: Parts,
    features: Float[Array, 'B T C'],
    step: int,
  ) -> Parts:
    """The state with a set in it, and the inputs of the next."""
    scale, cells = self.sets[step]
    part = state.part.at[:, cells].set(features)
    total = state.sum + msvq.contribution(quantizer, part, scale)
    if step + 1 == self.turns:
      return Parts(total, part, total[:, 0, :0])
    following, next_cells = self.sets[step + 1]
    reduced = resize(total, self.code_spec.grids[following], 'area')
    flat = einops.rearrange(reduced, 'b h w c -> b (h w) c')
    inputs = flat[:, next_cells]
    if following == scale:
      return Parts(state.sum, part, inputs)
    return Parts(total, self._empty(total, following), inputs)

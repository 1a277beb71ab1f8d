"""Rotary positions: queries and keys turned by where they are.

1-D turns by the index of a position in its scale (RoFormer, arXiv
2104.09864); 2-D turns half of the channels by the row and half by the column
of its cell, in units of the finest grid, so that scales share one frame
(LlamaGen, arXiv 2406.06525, section 3.2, for one grid). A row is turned by
the position that it predicts.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from varjax import errors
from varjax.spec import ModelSpec
from varjax.types import Layout


@flax.struct.dataclass
class Turns:
  """Rotations of the A / 2 channel pairs of each position."""

  cos: jax.Array  # [B, L, A / 2] or [1, L, A / 2]
  sin: jax.Array


def turns(
  spec: ModelSpec, layout: Layout, positions: Int[Array, '#B L']
) -> Turns | None:
  """The rotations of rows at `positions`; None where positions are learned.

  Raises:
    ConfigError: the head size does not divide into pairs (2-D: two halves
      of pairs), or the order's positions are no cells of a grid.
  """
  if spec.position == 'learned':
    return None
  axes = 2 if spec.position == 'rotary2d' else 1
  head = spec.width // spec.heads
  if head % (2 * axes):
    raise errors.ConfigError(
      f'model.width / model.heads = {head}: must be a multiple of '
      f'{2 * axes} with model.position={spec.position}'
    )
  pairs = head // (2 * axes)
  rates = spec.rotary_base ** -(np.arange(pairs, dtype=np.float32) / pairs)
  places = jnp.asarray(coordinates(layout, axes))[positions]
  angles = places[..., None] * jnp.asarray(rates)[None, None, None]
  angles = angles.reshape(*positions.shape, axes * pairs)
  return Turns(jnp.cos(angles), jnp.sin(angles))


def turn(x: Float[Array, 'B L N A'], by: Turns) -> Float[Array, 'B L N A']:
  """Rotates channel pairs (i, i + A / 2), in the type of x."""
  cos, sin = by.cos[:, :, None], by.sin[:, :, None]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def coordinates(layout: Layout, axes: int) -> np.ndarray:
  """float32 [num_positions, axes], where each position is.

  One axis: the index. Two: the centre of the cell, (row, column), in cells
  of the finest grid. Rows of the table that are no position are at 0.

  Raises:
    ConfigError: two axes, and the layout has no grids.
  """
  places = np.zeros((layout.num_positions, axes), np.float32)
  if axes == 1:
    places[:, 0] = np.arange(layout.num_positions)
    return places
  if not layout.grids:
    raise errors.ConfigError(
      'model.position=rotary2d: the positions of this order are no cells of '
      'a grid; use learned or rotary1d'
    )
  finest, start = layout.grids[-1], 0
  for height, width in layout.grids:
    rows, columns = np.meshgrid(
      (np.arange(height) + 0.5) * finest[0] / height,
      (np.arange(width) + 0.5) * finest[1] / width,
      indexing='ij',
    )
    cells = np.stack([rows.ravel(), columns.ravel()], axis=-1)
    cells = np.repeat(cells, layout.per_cell, axis=0)
    places[start : start + len(cells)] = cells
    start += len(cells)
  return places

"""What of each array a program sees: all positions of its image and head.

The last two axes of every grid are heads and images; programs of one head
follow each other, and find its keys and values in the cache of the device.
A program loads tiles out of its view by itself.
"""

from __future__ import annotations

import jax
from jax.experimental import pallas as pl


def head(length: int, head_size: int) -> pl.BlockSpec:
  """[length, A] of [B, length, N, A]."""
  return pl.BlockSpec(
    (None, length, None, head_size), lambda *at: (at[-1], 0, at[-2], 0)
  )


def head_of_layers(shape: tuple[int, ...]) -> pl.BlockSpec:
  """[depth, length, A] of [depth, B, length, N, A]."""
  depth, _, length, _, head_size = shape
  return pl.BlockSpec(
    (depth, None, length, None, head_size),
    lambda *at: (0, at[-1], 0, at[-2], 0),
  )


def numbers_of_layers(shape: tuple[int, ...]) -> pl.BlockSpec:
  """[depth, length] of [depth, B, length, N]."""
  depth, _, length, _ = shape
  return pl.BlockSpec(
    (depth, None, length, None), lambda *at: (0, at[-1], 0, at[-2])
  )


def parts(*arrays: jax.Array) -> list[pl.BlockSpec]:
  """[length, A] of queries, keys and values.

  Of arrays of their own [B, length, N, A], or of all three in one, given
  three times, [B, L, 3, N, A].
  """
  if arrays[0].ndim == 4:
    return [head(x.shape[1], x.shape[3]) for x in arrays]
  return [
    pl.BlockSpec(
      (None, x.shape[1], None, None, x.shape[-1]),
      lambda *at, part=part: (at[-1], 0, part, at[-2], 0),
    )
    for part, x in enumerate(arrays)
  ]


def all_parts(x: jax.Array) -> pl.BlockSpec:
  """[L, 3, A] of [B, L, 3, N, A]."""
  return pl.BlockSpec(
    (None, x.shape[1], 3, None, x.shape[-1]),
    lambda *at: (at[-1], 0, 0, at[-2], 0),
  )


def row_numbers(length: int) -> pl.BlockSpec:
  """[length] of [B, N, length]."""
  return pl.BlockSpec((None, None, length), lambda *at: (at[-1], at[-2], 0))


def of_split(view: pl.BlockSpec) -> pl.BlockSpec:
  """The view of one part of a split that is axis 1 of the grid."""
  shape, place = view.block_shape, view.index_map
  assert shape is not None
  assert place is not None
  return pl.BlockSpec((None, *shape), lambda *at: (at[1], *place(*at)))


def shared(length: int) -> pl.BlockSpec:
  """[length], the same for all programs."""
  return pl.BlockSpec((length,), lambda *_: (0,))


def cosine(
  inverses: tuple[jax.Array, jax.Array] | None, head_scale: jax.Array | None
) -> list[tuple[jax.Array, pl.BlockSpec]]:
  """The further inputs of cosine attention and their views; otherwise none.

  Args:
    inverses: 1 / |q| float32 [B, N, L] and 1 / |k| [B, N, M].
    head_scale: float32 [N]; a program sees that of its head.
  """
  if inverses is None or head_scale is None:
    return []
  one = pl.BlockSpec((1,), lambda *at: (at[-2],))
  return [
    *((x, row_numbers(x.shape[-1])) for x in inverses), (head_scale, one)
  ]  # fmt: skip

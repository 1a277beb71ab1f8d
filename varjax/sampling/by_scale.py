"""Codes scale by scale, as people see them, and in one row, as models do."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int
import numpy as np

from varjax import errors
from varjax.types import CodeSpec


def split(codes: Int[Array, 'B L R'], spec: CodeSpec) -> tuple[jax.Array, ...]:
  """[B, h, w] for each scale; [B, h, w, R] where R is more than 1."""
  per_position = codes.shape[-1]
  last = (per_position,) if per_position > 1 else ()
  return tuple(
    codes[:, start:stop].reshape(-1, *grid, *last)
    for start, stop, grid in zip(
      spec.offsets[:-1], spec.offsets[1:], spec.grids, strict=True
    )
  )


def join(
  codes: Sequence[jax.Array | np.ndarray], spec: CodeSpec
) -> Int[Array, 'B L R']:
  """The inverse of `split`.

  Raises:
    DataError: scales of another number or shape.
  """
  per_position = spec.codes_per_position
  last = (per_position,) if per_position > 1 else ()
  shapes = [tuple(np.shape(c)[1:]) for c in codes]
  if shapes != [(*grid, *last) for grid in spec.grids]:
    raise errors.DataError(
      f'codes of shapes {shapes}: must have the scales {list(spec.grids)}'
      + (f' and {per_position} codes per position' if last else '')
    )
  flat = [
    jnp.asarray(c, jnp.int32).reshape(len(c), -1, per_position) for c in codes
  ]
  return jnp.concatenate(flat, axis=1)

"""Named random streams, all folded from one seed and the step."""

from __future__ import annotations

import zlib

import jax


def for_step(seed: int, step: jax.Array | int) -> jax.Array:
  """The key of one update: `fold_in(key(seed), step)`."""
  return jax.random.fold_in(jax.random.key(seed), step)


def stream(key: jax.Array, name: str) -> jax.Array:
  """An independent key for one named use, such as 'label_drop'."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()))

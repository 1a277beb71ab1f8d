"""Named random streams, all folded from one seed and the step."""

from __future__ import annotations

import zlib

import jax


def for_step(key: jax.Array, step: jax.Array | int) -> jax.Array:
  """The key of one update, from that of the run's seed."""
  return jax.random.fold_in(key, step)


def stream(key: jax.Array, name: str) -> jax.Array:
  """An independent key for one named use, such as 'label_drop'."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()))

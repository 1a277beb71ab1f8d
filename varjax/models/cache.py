"""The key-value cache of a sampler: an explicit pytree, no hidden state."""

from __future__ import annotations

import flax.struct
import jax
from jax import lax
import jax.numpy as jnp

from varjax.spec import ModelSpec


@flax.struct.dataclass
class Cache:
  """Normalised keys, and values, of every position already generated."""

  k: jax.Array  # [depth, B, L, N, A]
  v: jax.Array  # [depth, B, L, N, A]

  def prefix(self, length: int) -> tuple[jax.Array, jax.Array] | None:
    """The first `length` (static) positions; None for an empty prefix."""
    if not length:
      return None
    return self.k[:, :, :length], self.v[:, :, :length]

  def write(self, new: tuple[jax.Array, jax.Array], offset: int) -> Cache:
    """Stores [depth, B, T, N, A] from position `offset` on."""
    return Cache(
      k=lax.dynamic_update_slice_in_dim(
        self.k, new[0].astype(self.k.dtype), offset, axis=2
      ),
      v=lax.dynamic_update_slice_in_dim(
        self.v, new[1].astype(self.v.dtype), offset, axis=2
      ),
    )


def empty(spec: ModelSpec, batch: int, positions: int) -> Cache:
  """A cache for `positions` of `batch` images, in the compute type."""
  head_size = spec.width // spec.heads
  shape = (spec.depth, batch, positions, spec.heads, head_size)
  zeros = jnp.zeros(shape, spec.compute_dtype)
  return Cache(k=zeros, v=zeros)

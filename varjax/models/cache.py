"""The key-value cache of a sampler: an explicit pytree, no hidden state.

A step that is unrolled reads the filled part as a slice. Steps of one traced
loop have a traced offset: they read the whole cache and mask the rest.
"""

from __future__ import annotations

import flax.struct
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.models import attention
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

  def write(
    self, new: tuple[jax.Array, jax.Array], offset: int | jax.Array
  ) -> Cache:
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


def attend_cached(
  q: Float[Array, 'B T N A'],
  k: Float[Array, 'B M N A'],
  v: Float[Array, 'B M N A'],
  scale: float,
  visible: Int[Array, ''],
) -> Float[Array, 'B T N A']:
  """One step against a whole cache, with the step's own keys at its end.

  On an NVIDIA GPU a kernel reads the filled part alone (`flash.cached`).

  Args:
    q: queries of the step.
    k, v: all rows of the cache followed by those of the step.
    scale: of the logits before the softmax.
    visible: rows of the cache that are filled.

  Returns:
    The attended values, in the type of v.
  """
  if attention.on_gpu() and q.dtype != jnp.float32 and attention.flash_fits(q):
    # Not at the top: models must load where Pallas does not.
    from varjax.models.flash import cached

    return cached.attend(q, k, v, scale=scale, visible=visible)
  rows, own = k.shape[1], q.shape[1]
  index = jnp.arange(rows)
  seen = (index < visible) | (index >= rows - own)
  logits = jnp.einsum(
    'btna,bmna->bntm', q, k, preferred_element_type=jnp.float32
  )
  logits = jnp.where(seen[None, None, None], logits * scale, -jnp.inf)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  return jnp.einsum('bntm,bmna->btna', weights, v)

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

from varjax.models import attention, quantised
from varjax.spec import ModelSpec


@flax.struct.dataclass
class Cache:
  """Normalised keys, and values, of every position already generated.

  Under int8 each head of each position has a scale. Blocks are scanned over
  it, so that one sees its own layer, without the leading axis; or the whole,
  and `layer` says which is its own.
  """

  k: jax.Array  # [depth, B, L, N, A]
  v: jax.Array  # [depth, B, L, N, A]
  k_scale: jax.Array | None = None  # [depth, B, L, N] float32, under int8
  v_scale: jax.Array | None = None  # [depth, B, L, N] float32, under int8
  layer: jax.Array | None = None  # int32 []
  # Positions that are read, from the first on; None is all of them.
  filled: int | None = flax.struct.field(pytree_node=False, default=None)

  def prefix(self, length: int) -> Cache | None:
    """To be read up to `length`, which is static; None for an empty prefix.

    The arrays stay whole: a layer reads its part of them, and no copy of a
    part of all layers is made.
    """
    return self.replace(filled=length) if length else None

  def joined(
    self, k: Float[Array, 'B T N A'], v: Float[Array, 'B T N A']
  ) -> tuple[Float[Array, 'B M N A'], Float[Array, 'B M N A']]:
    """What one layer holds, followed by the keys and values of a step."""
    own = self if self.layer is None else self.of_layer(self.layer)
    return (
      jnp.concatenate([own._read(own.k, own.k_scale, k.dtype), k], axis=1),
      jnp.concatenate([own._read(own.v, own.v_scale, v.dtype), v], axis=1),
    )

  def of_layer(self, layer: jax.Array) -> Cache:
    """The cache of one layer."""
    arrays = (self.k, self.v, self.k_scale, self.v_scale)
    parts = (None if x is None else x[layer] for x in arrays)
    return Cache(*parts, filled=self.filled)

  def _read(self, values, scale, dtype):
    values = values[:, : self.filled].astype(dtype)
    if scale is None:
      return values
    return values * scale[:, : self.filled, :, None].astype(dtype)

  def write(
    self, new: tuple[jax.Array, jax.Array], offset: int | jax.Array
  ) -> Cache:
    """Stores [depth, B, T, N, A] from position `offset` on."""

    def put(whole, part):
      part = part.astype(whole.dtype)
      return lax.dynamic_update_slice_in_dim(whole, part, offset, axis=2)

    if self.k_scale is None:
      return Cache(put(self.k, new[0]), put(self.v, new[1]))
    (k, k_scale), (v, v_scale) = map(quantised.of_rows, new)
    return Cache(
      put(self.k, k),
      put(self.v, v),
      put(self.k_scale, k_scale),
      put(self.v_scale, v_scale),
    )

  def images(self, start: int | None, stop: int | None) -> Cache:
    """Of some images of the batch."""
    return jax.tree.map(lambda x: x[:, start:stop], self)

  def beside(self, other: Cache) -> Cache:
    """One cache for the images of both."""
    return jax.tree.map(
      lambda *both: jnp.concatenate(both, axis=1), self, other
    )


def empty(
  spec: ModelSpec, batch: int, positions: int, dtype: str = ''
) -> Cache:
  """A cache for `positions` of `batch` images.

  Args:
    spec: the network.
    batch, positions: what there is room for.
    dtype: 'int8', or '' for the compute type.
  """
  head_size = spec.width // spec.heads
  shape = (spec.depth, batch, positions, spec.heads, head_size)
  zeros = jnp.zeros(shape, dtype or spec.compute_dtype)
  scale = jnp.zeros(shape[:-1], jnp.float32) if dtype == 'int8' else None
  return Cache(zeros, zeros, scale, scale)


def attend_cached(
  q: Float[Array, 'B T N A'],
  k: Float[Array, 'B T N A'],
  v: Float[Array, 'B T N A'],
  prefix: Cache,
  scale: float,
  visible: Int[Array, ''] | None = None,
  backend: str = 'auto',
) -> Float[Array, 'B T N A']:
  """One step against a cache and itself.

  On an NVIDIA GPU a kernel reads the cache where it lies (`flash.cached`).

  Args:
    q, k, v: of the step.
    prefix: what one layer holds, or all with the number of that layer.
    scale: of the logits before the softmax.
    visible: rows of the cache that are filled, where that is traced;
      `prefix.filled` otherwise.
    backend: key of `attention.BACKENDS`, or 'auto'; of steps that are not
      traced.

  Returns:
    The attended values, in the type of v.
  """
  ours = backend in ('auto', 'flash') or visible is not None
  if (
    ours
    and attention.on_gpu()
    and q.dtype != jnp.float32
    and attention.flash_fits(q)
  ):
    # Not at the top: models must load where Pallas does not.
    from varjax.models.flash import cached

    if visible is None:
      every = prefix.k.shape[-3]
      visible = every if prefix.filled is None else prefix.filled
    past = cached.Past(*_stacked(prefix))
    return cached.attend(q, k, v, past, scale=scale, visible=visible)
  keys, values = prefix.joined(k, v)
  if visible is None:
    return attention.attend(q, keys, values, scale=scale, backend=backend)
  rows, own = keys.shape[1], q.shape[1]
  index = jnp.arange(rows)
  seen = (index < visible) | (index >= rows - own)
  logits = jnp.einsum(
    'btna,bmna->bntm', q, keys, preferred_element_type=jnp.float32
  )
  logits = jnp.where(seen[None, None, None], logits * scale, -jnp.inf)
  weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
  return jnp.einsum('bntm,bmna->btna', weights, values)


def _stacked(prefix: Cache) -> tuple:
  """Keys, values and their scales of all layers, and the number of one."""
  arrays = prefix.k, prefix.v, prefix.k_scale, prefix.v_scale
  if prefix.layer is not None:
    return *arrays, prefix.layer
  return *(None if x is None else x[None] for x in arrays), 0

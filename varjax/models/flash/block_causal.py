"""Flash attention under static blocks, with gradients, on one device or more.

What is kept for the backward pass is q, k, v, the output and float32
vectors of one number a row; under cosine attention q and k are the raw ones.
The results among them are named `remat.ATTENTION`.

On other platforms than a GPU the kernels are interpreted: exact and slow.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import placement, remat
from varjax.models.flash import tiles as tiling

AXES = ('batch', None, 'heads', None)
_TINY_SQUARED = 1e-24  # As `norm.unit`: (1e-12)**2.


@dataclasses.dataclass(frozen=True)
class _Static:
  """What a kernel is compiled for."""

  blocks: tiling.Blocks | None
  scale: float
  tiles: tiling.Tiles
  interpret: bool


def supports(head_size: int) -> bool:
  """Whether the kernels have tiles for a head: powers of two, 16 to 128."""
  return head_size in (16, 32, 64, 128)


def attend(
  q: Float[Array, 'B L N A'],
  k: Float[Array, 'B M N A'],
  v: Float[Array, 'B M N A'],
  *,
  scale: float,
  blocks: tiling.Blocks | None,
  unit_scale: Float[Array, 'N'] | None = None,
  interpret: bool = False,
  tiles: tiling.Tiles | None = None,
) -> Float[Array, 'B L N A']:
  """Attention where a position sees its own block and those before.

  Args:
    q, k, v: queries, keys and values, float32, bfloat16 or float16, of heads
      that are `supports`ed; M may differ from L where there are no blocks.
    scale: of the logits before the softmax, positive.
    blocks: static block sizes that sum to L; without, all keys are seen.
    unit_scale: of cosine attention: the rows of q and k are divided by their
      lengths, and the logits of a head multiplied by its positive entry.
    interpret: run the kernels as ordinary operations, on any platform.
    tiles: those of `tiles.choose` by default.

  Returns:
    The attended values, in the type of v.

  Raises:
    ConfigError: heads or images that do not divide over the mesh in use.
  """
  tiles = tiles or tiling.choose(q.shape[-1], q.dtype.itemsize)
  lengths = q.shape[1], k.shape[1]
  tiles = tiling.Tiles(
    *(tiling.fit(t, *lengths) for t in (tiles.forward, tiles.dq, tiles.dkv))
  )
  local = functools.partial(_attend, _Static(blocks, scale, tiles, interpret))
  arguments, axes = [q, k, v], [AXES] * 3
  if unit_scale is not None:
    arguments.append(unit_scale.astype(jnp.float32))
    axes.append(('heads',))
  return placement.run(local, arguments, axes, name='flash')


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static: _Static, q, k, v, unit_scale=None) -> jax.Array:
  """The kernels on the arrays of one device."""
  return _forward(static, q, k, v, unit_scale)[0]


def _forward(static: _Static, q, k, v, unit_scale=None):
  # Not at the top: models must load where Pallas does not.
  from varjax.models.flash import forward

  limits = tiling.limits(static.blocks, q.shape[1], k.shape[1])
  inverses = None
  if unit_scale is not None:
    inverses = _inverse_lengths(q), _inverse_lengths(k)
  out, log = forward.forward(
    q, k, v, jnp.asarray(limits), inverses, unit_scale,
    scale=static.scale, tile=static.tiles.forward, interpret=static.interpret,
  )  # fmt: skip
  inverses, out, log = jax.tree.map(
    lambda x: remat.name(x, remat.ATTENTION), (inverses, out, log)
  )
  return out, (q, k, v, unit_scale, inverses, out, log)


def _backward(static: _Static, kept, grad: jax.Array):
  from varjax.models.flash import backward

  q, k, v, unit_scale, inverses, out, log = kept
  limits = tiling.limits(static.blocks, q.shape[1], k.shape[1])
  firsts = tiling.firsts(static.blocks, k.shape[1])
  dq, delta, *by_row = backward.queries(
    q, k, v, out, log, grad, jnp.asarray(limits), inverses, unit_scale,
    scale=static.scale, tile=static.tiles.dq, interpret=static.interpret,
  )  # fmt: skip
  dk, dv = backward.keys_and_values(
    q, k, v, log, delta, grad, jnp.asarray(firsts), inverses, unit_scale,
    scale=static.scale, tile=static.tiles.dkv, interpret=static.interpret,
  )  # fmt: skip
  dscale = jnp.sum(by_row[0], axis=(0, 2)) if by_row else None
  return dq, dk, dv, dscale


_attend.defvjp(_forward, _backward)


def _inverse_lengths(x: Float[Array, 'B L N A']) -> Float[Array, 'B N L']:
  """1 / max(|x|, 1e-12)."""
  squared = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1)
  inverse = jax.lax.rsqrt(jnp.maximum(squared, _TINY_SQUARED))
  return inverse.swapaxes(1, 2)

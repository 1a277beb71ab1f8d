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

from varjax import backends
from varjax.models import placement, remat
from varjax.models.flash import tiles as tiling

AXES = ('batch', None, 'heads', None)
_PACKED_AXES = ('batch', None, None, 'heads', None)
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
  return head_size in backends.FLASH_HEADS


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
  return _placed((q, k, v), scale, blocks, unit_scale, interpret, tiles)


def attend_packed(
  qkv: Float[Array, 'B L 3 N A'],
  *,
  scale: float,
  blocks: tiling.Blocks | None,
  unit_scale: Float[Array, 'N'] | None = None,
  interpret: bool = False,
  tiles: tiling.Tiles | None = None,
) -> Float[Array, 'B L N A']:
  """`attend` to queries, keys and values as one product leaves them.

  None of the three is copied out of `qkv`, nor their gradients into one
  array. `qkv` is named `remat.ATTENTION` as well. Other arguments and errors
  as of `attend`.
  """
  return _placed((qkv,), scale, blocks, unit_scale, interpret, tiles)


def _placed(
  inputs: tuple[jax.Array, ...],
  scale: float,
  blocks: tiling.Blocks | None,
  unit_scale: jax.Array | None,
  interpret: bool,
  tiles: tiling.Tiles | None,
) -> jax.Array:
  first, last = inputs[0], inputs[-1]
  tiles = tiles or tiling.choose(first.shape[-1], first.dtype.itemsize)
  tiles = tiling.Tiles(
    *(
      tiling.fit(tile, first.shape[1], last.shape[1])
      for tile in (tiles.forward, tiles.dq, tiles.dkv)
    )
  )
  static, count = _Static(blocks, scale, tiles, interpret), len(inputs)
  arguments = [*inputs]
  axes = [AXES if x.ndim == 4 else _PACKED_AXES for x in inputs]
  if unit_scale is not None:
    arguments.append(unit_scale.astype(jnp.float32))
    axes.append(('heads',))

  def local(*arrays: jax.Array) -> jax.Array:
    return _attend(static, arrays[:count], *arrays[count:])

  return placement.run(local, arguments, axes, name='flash', result=AXES)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  static: _Static, inputs: tuple[jax.Array, ...], unit_scale=None
) -> jax.Array:
  """The kernels on the arrays of one device: q, k and v, or all in one."""
  return _forward(static, inputs, unit_scale)[0]


def _forward(static: _Static, inputs, unit_scale=None):
  # Not at the top: models must load where Pallas does not.
  from varjax.models.flash import forward

  if len(inputs) == 1:
    inputs = (remat.name(inputs[0], remat.ATTENTION),)
  q, k, v = _three(inputs)
  limits = tiling.limits(static.blocks, q.shape[1], k.shape[1])
  inverses = None
  if unit_scale is not None:
    inverses = _inverse_lengths(q, 0), _inverse_lengths(k, 1)
  out, log = forward.forward(
    q, k, v, jnp.asarray(limits), inverses, unit_scale,
    scale=static.scale, tile=static.tiles.forward, interpret=static.interpret,
  )  # fmt: skip
  inverses, out, log = jax.tree.map(
    lambda x: remat.name(x, remat.ATTENTION), (inverses, out, log)
  )
  return out, (inputs, unit_scale, inverses, out, log)


def _backward(static: _Static, kept, grad: jax.Array):
  from varjax.models.flash import backward

  inputs, unit_scale, inverses, out, log = kept
  q, k, v = _three(inputs)
  limits = tiling.limits(static.blocks, q.shape[1], k.shape[1])
  firsts = tiling.firsts(static.blocks, k.shape[1])
  dq, delta, *by_row = backward.queries(
    q, k, v, out, log, grad, jnp.asarray(limits), inverses, unit_scale,
    scale=static.scale, tile=static.tiles.dq, interpret=static.interpret,
  )  # fmt: skip
  packed = len(inputs) == 1
  others = backward.keys_and_values(
    q, k, v, log, delta, grad, jnp.asarray(firsts), inverses, unit_scale,
    dq if packed else None, scale=static.scale, tile=static.tiles.dkv,
    interpret=static.interpret,
  )  # fmt: skip
  dscale = jnp.sum(by_row[0], axis=(0, 2)) if by_row else None
  return others if packed else (dq, *others), dscale


_attend.defvjp(_forward, _backward)


def _three(inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
  """What the kernels take as queries, keys and values."""
  return inputs if len(inputs) == 3 else inputs * 3


def _inverse_lengths(x: jax.Array, part: int) -> Float[Array, 'B N L']:
  """1 / max(|x|, 1e-12) of [B, L, N, A], or of a part of [B, L, 3, N, A]."""
  x = x if x.ndim == 4 else x[:, :, part]
  squared = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1)
  inverse = jax.lax.rsqrt(jnp.maximum(squared, _TINY_SQUARED))
  return inverse.swapaxes(1, 2)

"""Block-causal attention on TPUs: JAX's splash attention under our mask.

The kernel is `jax.experimental.pallas.ops.tpu.splash_attention`; it skips
tiles that the mask leaves empty and never stores logits. What is added here
is the mask of the scales (VAR, arXiv 2404.02905, section 3.2), the padding
that the kernel's tiles need, and the mesh (see `placement`).

Compiled by the TPU compiler and checked in interpret mode on a CPU; no TPU
has run it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from varjax.models import placement, remat

LANES = 128  # Of a TPU vector: tiles are multiples of it.
MAX_TILE = 512  # Its float32 logits, several times over, must fit in VMEM.
# Logits that a TPU could compute in the time that starting a tile takes:
# some 0.35 us at 100 TFLOP/s and heads of 64. From memory, not measured.
TILE_OVERHEAD = 2**17
Blocks = tuple[int, ...]
_AXES = ('batch', 'heads', None, None)


def block_causal(
  q: Float[Array, 'B L N A'],
  k: Float[Array, 'B L N A'],
  v: Float[Array, 'B L N A'],
  *,
  scale: float,
  blocks: Blocks,
  interpret: bool = False,
) -> Float[Array, 'B L N A']:
  """Attention where a position sees its own block and those before.

  Args:
    q, k, v: queries, keys and values.
    scale: of the logits before the softmax.
    blocks: static block sizes that sum to L.
    interpret: run the kernel as ordinary operations, on any platform.

  Returns:
    The attended values, in the type of v.

  Raises:
    ConfigError: heads or images that do not divide over the mesh in use.
  """
  length = q.shape[1]
  pad = padded_length(length) - length
  # The kernel has no scale of its own.
  q = q if scale == 1.0 else q * scale
  q, k, v = (
    jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))).swapaxes(1, 2)
    for x in (q, k, v)
  )  # [B, N, L, A]
  local = functools.partial(_local, blocks=blocks, interpret=interpret)
  out = placement.run(local, (q, k, v), (_AXES,) * 3, name='splash')
  return out.swapaxes(1, 2)[:, :length].astype(v.dtype)


def padded_length(length: int) -> int:
  """`length` rounded up to whole tiles, 680 to 768."""
  return -(-length // LANES) * LANES


def mask_of(blocks: Blocks) -> np.ndarray:
  """bool [padded L, padded L], true where a query sees a key.

  The padding is one more block: no position sees it, and its own rows see
  everything, for a softmax over nothing is not a number.
  """
  length = sum(blocks)
  sizes = (*blocks, padded_length(length) - length)
  steps = np.repeat(np.arange(len(sizes)), sizes)
  return steps[:, None] >= steps[None, :]


def tile_of(blocks: Blocks) -> int:
  """Side of the square tiles of least cost, the larger one at a tie.

  Small tiles skip more of what the mask forbids, but each has to start.
  """
  mask = mask_of(blocks)
  length = len(mask)

  def cost(tile: int) -> int:
    tiles = mask.reshape(length // tile, tile, length // tile, tile)
    return int(tiles.any(axis=(1, 3)).sum()) * (tile**2 + TILE_OVERHEAD)

  sides = range(LANES, min(MAX_TILE, length) + 1, LANES)
  return min(
    (side for side in sides if length % side == 0),
    key=lambda side: (cost(side), -side),
  )


def _local(
  q: jax.Array, k: jax.Array, v: jax.Array, *, blocks: Blocks, interpret: bool
) -> jax.Array:
  """The kernel on [B, N, L, A] of one device."""
  # Not at the top: models must load where Pallas does not.
  from jax.experimental.pallas.ops.tpu import splash_attention as kernels

  tile = tile_of(blocks)
  head_mask = kernels.NumpyMask(mask_of(blocks))
  kernel = kernels.make_splash_mha(
    kernels.MultiHeadMask([head_mask] * q.shape[1]),
    block_sizes=kernels.BlockSizes(
      block_q=tile,
      block_kv=tile,
      block_q_dkv=tile,
      block_kv_dkv=tile,
      block_q_dq=tile,
      block_kv_dq=tile,
    ),
    head_shards=1,
    q_seq_shards=1,
    residual_checkpoint_name=remat.ATTENTION,
    interpret=interpret,
  )
  return jax.vmap(kernel)(q, k, v)

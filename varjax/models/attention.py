"""Attention back ends: one rule, `steps[query] >= steps[key]`.

Where the steps are static (`Layout.block_sizes`), position blocks follow
each other and a query sees every key up to the end of its own block: the
block-causal attention of VAR (arXiv 2404.02905, section 3.2). Where they
vary by example, an explicit `steps` array is compared. Neither case stores
an [L, L] array outside the reference.

All back ends take q, k, v of shape [B, L, N, A] and return [B, L, N, A].
"""

from __future__ import annotations

from collections.abc import Callable
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from varjax import backends, errors
from varjax.models import placement, remat
from varjax.models import splash as splash_kernel
from varjax.models.flash import block_causal as flash_kernel

Blocks = tuple[int, ...]
Backend = Callable[
  [jax.Array, jax.Array, jax.Array, float, Blocks | None, jax.Array | None],
  jax.Array,
]

# Next-scale orders have tens of blocks, orders of single tokens one for each.
_MOST_BLOCKS = 64


class Cosine(NamedTuple):
  """Queries and keys before normalisation, of cosine attention.

  For back ends that normalise by themselves: they need no normalised copies
  in memory, neither forwards nor for the backward pass.
  """

  q: jax.Array  # [B, L, N, A]
  k: jax.Array  # [B, L, N, A]
  scale: jax.Array  # [N], of the logits of each head


def attend(
  q: Float[Array, 'B L N A'],
  k: Float[Array, 'B M N A'],
  v: Float[Array, 'B M N A'],
  *,
  scale: float,
  blocks: Blocks | None = None,
  steps: Int[Array, '#B L'] | None = None,
  backend: str = 'auto',
  cosine: Cosine | None = None,
  packed: Float[Array, 'B L 3 N A'] | None = None,
) -> Float[Array, 'B L N A']:
  """Attention under the step rule.

  Args:
    q, k, v: queries, keys and values; k and v may be longer than q when
      there is no rule (a step that reads a cache).
    scale: of the logits before the softmax.
    blocks: static block sizes that sum to L; block i sees blocks <= i.
    steps: dynamic alternative to `blocks`. With neither, all is seen.
    backend: key of `BACKENDS`, or 'auto' for the platform's choice.
    cosine: what q and k were normalised from, if they were; the flash back
      end reads it instead of them.
    packed: what q, k and v, or those of `cosine`, are the parts of, if they
      are; the flash back end reads it instead, and copies nothing.

  Returns:
    The attended values, in the type of v.

  Raises:
    ConfigError: if the back end does not exist.
  """
  if blocks is not None and len(blocks) == 1:
    blocks = None  # One block sees all of itself.
  static = blocks is not None and flash_fits(q)
  name = choose(backend, q.dtype, static)
  if name == 'flash' and steps is None and static:
    scale, unit_scale = (scale, None) if cosine is None else (1.0, cosine.scale)
    rule = {'scale': scale, 'unit_scale': unit_scale, 'blocks': blocks}
    if packed is not None:
      return flash_kernel.attend_packed(packed, **rule, interpret=not on_gpu())
    if cosine is not None:
      q, k = cosine.q, cosine.k
    return flash_kernel.attend(q, k, v, **rule, interpret=not on_gpu())
  return BACKENDS[name](q, k, v, scale, blocks, steps)


def choose(backend: str, dtype: jnp.dtype, static: bool = True) -> str:
  """Resolves 'auto' by the platform compiled for and the compute type.

  Args:
    backend: key of `BACKENDS`, or 'auto'.
    dtype: compute type.
    static: whether there are static blocks, and heads that the flash back
      end has tiles for.

  Raises:
    ConfigError: if the back end does not exist.
  """
  if backend == 'auto':
    name = jnp.dtype(dtype).name
    return backends.automatic(target_platform(), name, static)
  if backend not in BACKENDS:
    raise errors.ConfigError(
      f'model.attention={backend!r}: must be one of auto, '
      f'{", ".join(sorted(BACKENDS))}'
    )
  return backend


def target_platform() -> str:
  """What the program being traced will run on: 'cpu', 'gpu', 'tpu'.

  The platform of the mesh in use, which need not be the host's: a pod's
  program is compiled ahead of time on a CPU. Without a mesh, JAX's default.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else jax.default_backend()


def on_gpu() -> bool:
  """Whether the program being traced will run on an NVIDIA GPU."""
  return backends.on_gpu(target_platform())


def flash_fits(q: Float[Array, 'B L N A']) -> bool:
  """Whether the flash kernels have tiles for these, and each device some."""
  return flash_kernel.supports(q.shape[-1]) and placement.divides(
    q.shape, flash_kernel.AXES
  )


def block_steps(blocks: Blocks) -> np.ndarray:
  """int32 [L], the index of the block that each position is in."""
  return np.repeat(np.arange(len(blocks), dtype=np.int32), blocks)


def allowed(
  blocks: Blocks | None, steps: Int[Array, '#B L'] | None
) -> Bool[Array, '#B 1 L L'] | None:
  """The rule as a mask, true where a query may see a key; None: all."""
  if blocks is not None:
    steps = jnp.asarray(block_steps(blocks))[None]
  if steps is None:
    return None
  return steps[:, None, :, None] >= steps[:, None, None, :]


def xla(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: float,
  blocks: Blocks | None,
  steps: jax.Array | None,
) -> jax.Array:
  """The reference: einsum, float32 softmax, masked logits."""
  logits = jnp.einsum(
    'blna,bmna->bnlm', q, k, preferred_element_type=jnp.float32
  )
  if scale != 1.0:
    logits = logits * scale
  mask = allowed(blocks, steps)
  if mask is not None:
    logits = jnp.where(mask, logits, -jnp.inf)
  weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
  out = jnp.einsum('bnlm,bmna->blna', weights, v)
  return remat.name(out, remat.ATTENTION)


def blockwise(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: float,
  blocks: Blocks | None,
  steps: jax.Array | None,
) -> jax.Array:
  """Each static block against the prefix it may see: no mask, less work.

  Falls back to the reference where the steps are not static, or where
  unrolling them would be a program of thousands of products.
  """
  if blocks is None or len(blocks) > _MOST_BLOCKS:
    return xla(q, k, v, scale, blocks, steps)
  ends = list(itertools.accumulate(blocks))
  parts = [
    xla(q[:, end - size : end], k[:, :end], v[:, :end], scale, None, None)
    for size, end in zip(blocks, ends, strict=True)
  ]
  return jnp.concatenate(parts, axis=1)


def cudnn(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: float,
  blocks: Blocks | None,
  steps: jax.Array | None,
) -> jax.Array:
  """cuDNN flash attention through `jax.nn.dot_product_attention`.

  For NVIDIA GPUs and bfloat16 or float16 only. The rule goes in as a
  boolean mask, which needs even lengths: an odd one is padded by one key
  that nobody sees and one query that is dropped.
  """
  mask = allowed(blocks, steps)
  length = q.shape[1]
  if mask is None:
    return jax.nn.dot_product_attention(
      q, k, v, scale=scale, implementation='cudnn'
    )
  odd = length % 2
  if odd:
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1), (0, 1)))
    # The dropped query needs something to look at, or its softmax is 0 / 0.
    mask = mask.at[:, :, length, :].set(True)
  out = jax.nn.dot_product_attention(
    q, k, v, mask=mask, scale=scale, implementation='cudnn'
  )
  return out[:, :length]


def splash(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: float,
  blocks: Blocks | None,
  steps: jax.Array | None,
) -> jax.Array:
  """JAX's TPU flash attention, which skips what static blocks forbid.

  Falls back to the reference where there are no static blocks: rules that
  vary by example, and steps that read a cache. Elsewhere than on a TPU the
  kernel is interpreted, which is exact and slow.
  """
  if blocks is None:
    return xla(q, k, v, scale, None, steps)
  return splash_kernel.block_causal(
    q, k, v, scale=scale, blocks=blocks, interpret=target_platform() != 'tpu'
  )


def flash(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: float,
  blocks: Blocks | None,
  steps: jax.Array | None,
) -> jax.Array:
  """Our kernels for NVIDIA GPUs, which skip what static blocks forbid.

  Also without a rule, where k and v may be longer. Falls back to what 'auto'
  takes otherwise for rules that vary by example and for heads that are no
  power of two from 16 to 128. Elsewhere than on a GPU the kernels are
  interpreted, which is exact and slow.
  """
  varies = blocks is None and steps is not None
  if varies or not flash_kernel.supports(q.shape[-1]):
    name = choose('auto', q.dtype, static=False)
    return BACKENDS[name](q, k, v, scale, blocks, steps)
  return flash_kernel.attend(
    q, k, v, scale=scale, blocks=blocks, interpret=not on_gpu()
  )


BACKENDS: dict[str, Backend] = {
  'xla': xla,
  'blockwise': blockwise,
  'cudnn': cudnn,
  'splash': splash,
  'flash': flash,
}

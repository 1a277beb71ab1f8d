"""A frozen vision transformer, read at several depths.

The backbone of the DINO discriminator: ViT-S/16 (Caron et al., arXiv
2104.14294), whose weights ship in no package and come from the file that
its authors publish. Sizes follow from the weights. Pure functions on a
nested dict, channels last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from varjax import errors
from varjax.types import PyTree

PATCH = 16
SIDE = 224  # of the images that the position table is for
_HEAD = 64
_EPS = 1e-6
# Of ImageNet, for images in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def from_state(state: Mapping[str, np.ndarray], where: str) -> PyTree:
  """The weights in the names of the published file, checked.

  Args:
    state: name to array, as `interop.pth.read_state` reads it; a final norm
      and a head are left out.
    where: the file to name in errors.

  Returns:
    Nested dict of float32: kernels [in, out], blocks in a list.

  Raises:
    CheckpointError: a weight is missing or of another shape.
  """
  state = {name.removeprefix('backbone.'): v for name, v in state.items()}

  def take(name: str, *shape: int) -> np.ndarray:
    if name not in state:
      raise errors.CheckpointError(
        f'{where}: has no weight {name!r}; a ViT with {PATCH} x {PATCH} '
        'patches in the format of DINO is needed'
      )
    value = np.asarray(state[name], np.float32)
    if shape and value.shape != shape:
      raise errors.CheckpointError(
        f'{where}: {name} has shape {value.shape}, must be {shape}'
      )
    return value

  width = take('cls_token').shape[-1]
  hidden = take('blocks.0.mlp.fc1.weight').shape[0]
  tokens = (SIDE // PATCH) ** 2 + 1
  if width % _HEAD:
    raise errors.CheckpointError(
      f'{where}: width {width} is no multiple of the head size {_HEAD}'
    )

  def dense(name: str, out: int, inner: int) -> dict[str, np.ndarray]:
    kernel = take(f'{name}.weight', out, inner).T
    return {'kernel': kernel, 'bias': take(f'{name}.bias', out)}

  def norm(name: str) -> dict[str, np.ndarray]:
    return {
      'scale': take(f'{name}.weight', width),
      'bias': take(f'{name}.bias', width),
    }

  depth = 0
  while f'blocks.{depth}.norm1.weight' in state:
    depth += 1
  projection = take('patch_embed.proj.weight', width, 3, PATCH, PATCH)
  return {
    'patch': {
      'kernel': einops.rearrange(projection, 'o c h w -> (h w c) o'),
      'bias': take('patch_embed.proj.bias', width),
    },
    'class': take('cls_token', 1, 1, width),
    'positions': take('pos_embed', 1, tokens, width),
    'blocks': [
      {
        'norm1': norm(f'blocks.{i}.norm1'),
        'qkv': dense(f'blocks.{i}.attn.qkv', 3 * width, width),
        'proj': dense(f'blocks.{i}.attn.proj', width, width),
        'norm2': norm(f'blocks.{i}.norm2'),
        'fc1': dense(f'blocks.{i}.mlp.fc1', hidden, width),
        'fc2': dense(f'blocks.{i}.mlp.fc2', width, hidden),
      }
      for i in range(depth)
    ],
  }


def tokens(
  weights: PyTree, images: Float[Array, 'B H W 3'], after: Sequence[int]
) -> list[Float[Array, 'B L C']]:
  """The token sequence, class token first, at several depths.

  Args:
    weights: of `from_state`.
    images: in [-1, 1], 224 x 224.
    after: blocks behind which to read, ascending; -1 is before the first.
  """
  mean, std = jnp.array(_MEAN), jnp.array(_STD)
  x = ((images + 1) / 2 - mean[None, None, None]) / std[None, None, None]
  x = einops.rearrange(
    x, 'b (h p) (w q) c -> b (h w) (p q c)', p=PATCH, q=PATCH
  )
  x = _dense(weights['patch'], x)
  first = jnp.broadcast_to(weights['class'], (x.shape[0], 1, x.shape[-1]))
  x = jnp.concatenate([first.astype(x.dtype), x], 1) + weights['positions']
  found = [x] if -1 in after else []
  for index, block in enumerate(weights['blocks'][: max(after) + 1]):
    x = x + _attend(block, _norm(block['norm1'], x))
    hidden = _dense(block['fc1'], _norm(block['norm2'], x))
    x = x + _dense(block['fc2'], jax.nn.gelu(hidden, approximate=False))
    if index in after:
      found.append(x)
  return found


def _attend(block: PyTree, x: jax.Array) -> jax.Array:
  qkv = _dense(block['qkv'], x)
  q, k, v = einops.rearrange(qkv, 'b l (n h a) -> n b h l a', n=3, a=_HEAD)
  scores = jnp.einsum('bhqa,bhka->bhqk', q, k) * _HEAD**-0.5
  mixed = jnp.einsum('bhqk,bhka->bhqa', jax.nn.softmax(scores), v)
  return _dense(block['proj'], einops.rearrange(mixed, 'b h l a -> b l (h a)'))


def _dense(weights: PyTree, x: jax.Array) -> jax.Array:
  return x @ weights['kernel'] + weights['bias'][None, None]


def _norm(weights: PyTree, x: jax.Array) -> jax.Array:
  centred = x - jnp.mean(x, -1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), -1, keepdims=True)
  x = centred * jax.lax.rsqrt(variance + _EPS)
  return x * weights['scale'][None, None] + weights['bias'][None, None]

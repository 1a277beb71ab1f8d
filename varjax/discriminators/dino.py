"""Five small heads on the features of a frozen DINO transformer.

The discriminator of the authors' tokenizer trainer (FoundationVision/vaex),
after StyleGAN-T (Sauer et al., arXiv 2301.09515): ViT-S/16 read before its
first block and after four others; each head is three spectrally normalised
1-d convolutions over the patches.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax import errors
from varjax import rng as rngs
from varjax.discriminators import spectral, vit
from varjax.discriminators.norm import BatchStatNorm
from varjax.spec import AdversarialSpec
from varjax.tokenizers.resize import resize
from varjax.types import PyTree

READ_AFTER = (-1, 2, 5, 8, 11)
WIDTH = 384  # of ViT-S
_KERNEL = 9
_SLOPE = 0.2
_STD = 0.02
_CROP_SHARE = 0.5


class _Head(nn.Module):
  """[B, L, C] to one logit a patch, [B, L]."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    x = self._layer(x.astype(self.dtype), width, 1, '0')
    x = (x + self._layer(x, width, _KERNEL, '1')) / math.sqrt(2)
    return self._conv(1, 1, 'conv_out')(x)[..., 0]

  def _layer(self, x: jax.Array, width: int, size: int, name: str) -> jax.Array:
    x = self._conv(width, size, f'conv_{name}')(x)
    x = BatchStatNorm(self.dtype, name=f'norm_{name}')(x)
    return nn.leaky_relu(x, _SLOPE)

  def _conv(self, width: int, size: int, name: str) -> nn.Conv:
    axes = (None, 'conv_in', 'conv_out' if width > 1 else None)
    init = nn.initializers.truncated_normal(_STD)
    return nn.Conv(
      width,
      (size,),
      padding='CIRCULAR',
      dtype=self.dtype,
      kernel_init=nn.with_logical_partitioning(init, axes),
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
      name=name,
    )


@dataclasses.dataclass(frozen=True)
class DinoDiscriminator:
  """A `discriminators.base.Discriminator`; its state is spectral vectors.

  `frozen` of `logits` is what `vit.from_state` returns.

  Attributes:
    spec: unused; every discriminator is made alike.
    resolution: side of the images.
    dtype: of the heads' arithmetic; the transformer runs in that of its
      weights.
    width: channels of the transformer.
  """

  spec: AdversarialSpec
  resolution: int
  dtype: Any = jnp.float32
  width: int = WIDTH

  @functools.cached_property
  def _head(self) -> _Head:
    return _Head(self.dtype)

  def init(self, rng: jax.Array) -> tuple[PyTree, PyTree]:
    """Fresh heads, truncated normal with deviation 0.02 (vaex)."""
    features = jnp.zeros((1, _KERNEL, self.width))
    params = {
      f'head_{i}': self._head.init(jax.random.fold_in(rng, i), features)[
        'params'
      ]
      for i in range(len(READ_AFTER))
    }
    return params, spectral.start(params, rngs.stream(rng, 'spectral'))

  def prepare(self, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """Kernels divided by their largest singular value."""
    return spectral.normalise(params, state)

  def logits(
    self,
    weights: PyTree,
    frozen: PyTree,
    images: Float[Array, 'B H W 3'],
    rng: jax.Array,
  ) -> Float[Array, 'B logits']:
    """One logit for each head and patch, float32 [B, 5 * 196]."""
    found = vit.tokens(frozen, _to_side(images, rng), READ_AFTER)
    logits = [
      # Every patch also knows the class token.
      self._head.apply({'params': weights[f'head_{i}']}, x[:, 1:] + x[:, :1])
      for i, x in enumerate(found)
    ]
    return jnp.concatenate(logits, 1).astype(jnp.float32)


def check_backbone(weights: PyTree, where: str) -> None:
  """Refuses a transformer of another size than the heads are for.

  Args:
    weights: of `vit.from_state`.
    where: the file to name in errors.

  Raises:
    CheckpointError: another width, or too few blocks.
  """
  width, depth = weights['class'].shape[-1], len(weights['blocks'])
  if width != WIDTH or depth <= max(READ_AFTER):
    raise errors.CheckpointError(
      f'{where}: a transformer of width {width} and depth {depth}; the DINO '
      f'discriminator reads ViT-S/16, width {WIDTH} and depth '
      f'{max(READ_AFTER) + 1}'
    )


def _to_side(images: jax.Array, rng: jax.Array) -> jax.Array:
  """Images as the transformer reads them.

  Larger ones are cropped at random half of the time, all of a batch alike,
  and reduced by area otherwise; smaller ones are enlarged.
  """
  side = images.shape[1]
  size = (vit.SIDE, vit.SIDE)
  if side == vit.SIDE:
    return images
  if side < vit.SIDE:
    return resize(images, size, 'bicubic')
  for_choice, for_place = jax.random.split(rng)
  top, left = jax.random.randint(for_place, (2,), 0, side - vit.SIDE + 1)

  def crop(x: jax.Array) -> jax.Array:
    shape = (x.shape[0], *size, x.shape[-1])
    return jax.lax.dynamic_slice(x, (0, top, left, 0), shape)

  return jax.lax.cond(
    jax.random.bernoulli(for_choice, _CROP_SHARE),
    crop,
    lambda x: resize(x, size, 'area'),
    images,
  )

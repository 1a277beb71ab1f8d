"""The protocol of feature networks: images to descriptors, logits and maps.

Distances between image sets are distances between descriptors, so a score
means nothing without the network, its weights and its preprocessing.
`Network.identity` says all three, and goes wherever a score goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import hashlib
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Num
import numpy as np

from varjax.types import PyTree


class Features(NamedTuple):
  """What a network makes of a batch; float32.

  Attributes:
    pooled: [B, F] descriptors, averaged over space.
    spatial: [B, F] a few channels of an early map, flattened (for sFID).
    logits: [B, J] of the classifier, biases included.
    maps: [B, h, w, C] intermediate maps, from shallow to deep.
  """

  pooled: jax.Array  # [B, F]
  spatial: jax.Array  # [B, F]
  logits: jax.Array  # [B, J]
  maps: tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A pretrained network: pure functions, and the weights they take.

  Attributes:
    name: short, as in the names of scores ('efflite0').
    resolution: side that `apply` resizes images to.
    preprocessing: everything between a uint8 image and the first layer.
    params: weights, a pytree of arrays.
    forward: (params, images) -> Features of images as they are: no resize;
      for losses, which keep the resolution of the image.
    resize: images of any size to [B, resolution, resolution, 3].
    label_count: classes of the logits where they are those of ImageNet-1k
      in their usual order; 0 where a label says nothing about them.
  """

  name: str
  resolution: int
  preprocessing: str
  params: PyTree
  forward: Callable[[PyTree, Float[Array, 'B H W 3']], Features]
  resize: Callable[[Float[Array, 'B H W 3']], Float[Array, 'B _ _ 3']]
  label_count: int = 0

  @functools.cached_property
  def identity(self) -> str:
    """Name and hash of weights and preprocessing; equal means comparable."""
    weights = hash_tree(self.params)
    text = f'{weights} {self.resolution} {self.preprocessing}'
    return f'{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}'

  def apply(self, params: PyTree, images: Num[Array, 'B H W 3']) -> Features:
    """Features of images under the protocol of the network's scores.

    Args:
      params: `self.params`, an argument so that jit does not bake them in.
      images: uint8, or float in [0, 255]; differentiable in the latter.
    """
    return self.forward(params, self.resize(images.astype('float32')))


def hash_arrays(arrays: Mapping[str, np.ndarray]) -> str:
  """Content hash of named arrays: names, types, shapes and bytes."""
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    little = array.astype(array.dtype.newbyteorder('<'), copy=False)
    digest.update(f'{name} {little.dtype.str} {little.shape}\n'.encode())
    digest.update(little.tobytes())
  return digest.hexdigest()[:16]


def hash_tree(tree: PyTree) -> str:
  """Content hash of weights: `hash_arrays` by the path of each leaf."""
  return hash_arrays(
    {
      jax.tree_util.keystr(path, simple=True, separator='/'): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
  )

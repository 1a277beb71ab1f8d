"""One sampling program on every device, each with its own group of images.

For bulk sampling (VAR section 4.1: 50,000 images). A group is the unit of
computation: always the same program with the same number of rows on one
device. Arithmetic of another shape may round differently, so this is what
makes an image independent of how many devices there are and of how many
images are asked for at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, UInt8
import numpy as np

from varjax import errors, sharding
from varjax import spec as specs
from varjax.types import PyTree

# (weights, labels [G], keys [G]) -> images [G, H, W, 3] in [0, 1].
Draw = Callable[[PyTree, jax.Array, jax.Array], jax.Array]


class GroupSampler:
  """Images by index, over the devices of this process.

  Image i has its own key, folded from the seed and i: it depends on the
  weights, its label, the seed, i and the group size, and on nothing else.

  Attributes:
    group: images that one device computes at once.
    rows: images of one program call, over all devices.
  """

  def __init__(
    self,
    draw: Draw,
    weights: PyTree,
    *,
    group: int,
    seed: int,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Copies the weights to every device; compiles at the first call.

    Args:
      draw: samples one group.
      weights: first argument of `draw`.
      group: images that one device computes at once.
      seed: of the keys.
      devices: this process's devices by default.

    Raises:
      ConfigError: `group` is below 1.
    """
    if group < 1:
      raise errors.ConfigError(f'group={group}: must be at least 1')
    devices = jax.local_devices() if devices is None else list(devices)
    mesh = sharding.make_mesh(specs.MeshSpec(data=-1), devices)
    self.group = group
    self.rows = group * len(devices)
    self._split = sharding.batch_sharding(mesh)
    self._weights = jax.device_put(weights, sharding.replicated(mesh))
    self._key = jax.random.key(seed)
    batch = PartitionSpec(sharding.RULES['batch'])
    self._program = jax.jit(
      jax.shard_map(
        lambda w, labels, keys: to_uint8(draw(w, labels, keys)),
        mesh=mesh,
        in_specs=(PartitionSpec(), batch, batch),
        out_specs=batch,
        # Nothing is exchanged between devices: there is nothing to check.
        check_vma=False,
      )
    )
    self._fold = jax.jit(
      jax.vmap(functools.partial(jax.random.fold_in, self._key))
    )

  def __call__(
    self, index: np.ndarray, labels: np.ndarray, in_flight: int = 1
  ) -> np.ndarray:
    """Samples images.

    Args:
      index: [n] global numbers of the images. For an image to be the same
        in every run, its place in its group must be: start at a multiple of
        the group size.
      labels: [n] class of each.
      in_flight: program calls to queue before the first result is fetched.

    Returns:
      uint8 [n, H, W, 3].
    """
    images, waiting = [], []
    for start in range(0, len(index), self.rows):
      waiting.append(self._start(index, labels, start))
      if len(waiting) >= max(in_flight, 1):
        images.append(np.asarray(waiting.pop(0)))
    images += [np.asarray(part) for part in waiting]
    return np.concatenate(images)[: len(index)]

  def _start(
    self, index: np.ndarray, labels: np.ndarray, start: int
  ) -> jax.Array:
    # The last call is padded: another shape would be another program.
    rows = np.minimum(np.arange(start, start + self.rows), len(index) - 1)
    keys = self._fold(jnp.asarray(index[rows], jnp.uint32))
    placed = jax.device_put(
      (jnp.asarray(labels[rows], jnp.int32), keys), self._split
    )
    return self._program(self._weights, *placed)


def to_uint8(images: Float[Array, 'B H W 3']) -> UInt8[Array, 'B H W 3']:
  """Images in [0, 1] as bytes, rounded to the nearest."""
  return jnp.clip(jnp.round(images * 255), 0, 255).astype(jnp.uint8)

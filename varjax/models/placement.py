"""Kernels under a mesh: each device attends for its own images and heads.

A kernel is opaque to the partitioner, which would gather its inputs. Under
`jax.shard_map` it runs on the part of one device instead; attention needs no
other part, for images and heads never meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

import jax
from jax.sharding import PartitionSpec

from varjax import errors, sharding

Axes = tuple[str | None, ...]  # Logical names: 'batch', 'heads' or nothing.
_KEYS = {'batch': 'batch_size', 'heads': 'model.heads'}


def run(
  kernel: Callable[..., jax.Array],
  arguments: Sequence[jax.Array],
  axes: Sequence[Axes],
  *,
  name: str,
) -> jax.Array:
  """`kernel(*arguments)`, on every device's share.

  Args:
    kernel: its result has the axes of its first argument.
    arguments: arrays.
    axes: of each argument.
    name: of the back end, for errors.

  Raises:
    ConfigError: heads or images that do not divide over the mesh in use.
  """
  mesh = jax.sharding.get_abstract_mesh()
  # Inside of a shard_map these are the arrays of one device already.
  if mesh.empty or mesh.manual_axes:
    return kernel(*arguments)
  uneven = _uneven(mesh, arguments[0].shape, axes[0])
  if uneven:
    raise errors.ConfigError(f'{name} attention: {uneven}')
  specs = tuple(
    PartitionSpec(*(sharding.RULES[axis] if axis else None for axis in names))
    for names in axes
  )
  return jax.shard_map(
    kernel, in_specs=specs, out_specs=specs[0], check_vma=False
  )(*arguments)


def alone() -> bool:
  """Whether each device has all that a kernel is given, mesh or no mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return bool(mesh.empty or mesh.manual_axes) or mesh.size == 1


def divides(shape: tuple[int, ...], axes: Axes) -> bool:
  """Whether an array can be cut over the mesh in use."""
  mesh = jax.sharding.get_abstract_mesh()
  return bool(mesh.empty or mesh.manual_axes) or not _uneven(mesh, shape, axes)


def _uneven(mesh, shape: tuple[int, ...], axes: Axes) -> str:
  """What does not divide, in words; '' if everything does."""
  for size, axis in zip(shape, axes, strict=True):
    rule = sharding.RULES[axis] if axis else None
    names = (rule,) if isinstance(rule, str) else rule or ()
    parts = math.prod(mesh.shape[name] for name in names)
    if axis and size % parts:
      return (
        f'{_KEYS[axis]}={size} must be a multiple of '
        f'mesh.{" * mesh.".join(names)} = {parts}'
      )
  return ''

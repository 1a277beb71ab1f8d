"""Kernels under a mesh: each device attends for its own images and heads.

A kernel is opaque to the partitioner, which would gather its inputs. Under
`jax.shard_map` it runs on the part of one device instead; attention needs no
other part, for images and heads never meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import Any

import jax
from jax.sharding import PartitionSpec

from varjax import errors, sharding

Axes = tuple[str | None, ...]  # Logical names: 'batch', 'heads' or nothing.
_KEYS = {'batch': 'batch_size', 'heads': 'model.heads'}


def run(
  kernel: Callable[..., Any],
  arguments: Sequence[jax.Array],
  axes: Sequence[Axes],
  *,
  name: str,
  result: Axes | tuple[Axes, ...] | None = None,
) -> Any:
  """`kernel(*arguments)`, on every device's share.

  Args:
    kernel: what is run on the arrays of one device.
    arguments: arrays.
    axes: of each argument.
    name: of the back end, for errors.
    result: axes of what it returns, or of each of several arrays; those of
      its first argument by default.

  Returns:
    What the kernel returns, of all devices.

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
  return jax.shard_map(
    kernel,
    in_specs=tuple(_spec(names) for names in axes),
    out_specs=jax.tree.map(
      _spec, result or axes[0], is_leaf=lambda x: not isinstance(x[0], tuple)
    ),
    check_vma=False,
  )(*arguments)


def _spec(names: Axes) -> PartitionSpec:
  return PartitionSpec(
    *(sharding.RULES[axis] if axis else None for axis in names)
  )


def alone() -> bool:
  """Whether each device has all that a kernel is given, mesh or no mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return bool(mesh.empty or mesh.manual_axes) or mesh.size == 1


def is_whole(axis: str) -> bool:
  """Whether no device holds only a part of an axis of this name."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.manual_axes:
    return True
  return _parts(mesh, axis)[1] == 1


def divides(shape: tuple[int, ...], axes: Axes) -> bool:
  """Whether an array can be cut over the mesh in use."""
  mesh = jax.sharding.get_abstract_mesh()
  return bool(mesh.empty or mesh.manual_axes) or not _uneven(mesh, shape, axes)


def _uneven(mesh, shape: tuple[int, ...], axes: Axes) -> str:
  """What does not divide, in words; '' if everything does."""
  for size, axis in zip(shape, axes, strict=True):
    names, parts = _parts(mesh, axis)
    if axis and size % parts:
      return (
        f'{_KEYS[axis]}={size} must be a multiple of '
        f'mesh.{" * mesh.".join(names)} = {parts}'
      )
  return ''


def _parts(mesh, axis: str | None) -> tuple[tuple[str, ...], int]:
  """Axes of the mesh that a logical axis is cut over; how many parts."""
  rule = sharding.RULES[axis] if axis else None
  names = (rule,) if isinstance(rule, str) else rule or ()
  return names, math.prod(mesh.shape[name] for name in names)

"""Where every array lives: one table from logical names to mesh axes.

Modules name the axes of their parameters ('embed', 'mlp', ...); this file
alone knows the mesh. `jax.jit` with the `NamedSharding`s made here is the
whole of data parallelism, fully sharded parameters (ZeRO-3, Rajbhandari et
al., arXiv 1910.02054) and tensor parallelism (Megatron-LM, Shoeybi et al.,
arXiv 1909.08053).

Enter `use_mesh` only around jitted calls. Shapes, shardings and
initialisation are worked out outside of it: under a mesh, unboxing adds
sharding constraints to abstract values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import math
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from varjax import errors
from varjax import spec as specs
from varjax.types import Batch, PyTree

AXES = ('data', 'fsdp', 'tensor')

# 'batch' comes first: for activations Flax gives a mesh axis to the first
# rule that wants it, so that there 'embed' stays whole.
RULES: dict[str, str | tuple[str, ...] | None] = {
  'batch': ('data', 'fsdp'),
  # The transformer. Inputs of the residual stream lie on `fsdp`; what is
  # inside a branch (heads, MLP, logits) on `tensor`.
  'embed': 'fsdp',
  'mlp': 'tensor',
  'heads': 'tensor',
  'vocab': 'tensor',
  'layers': None,
  'length': None,
  # num_classes + 1 rows never divide evenly; the columns are 'embed'.
  'classes': None,
  # AdaLN is cut along its input, the condition: splitting a sharded 6D axis
  # would force a full rematerialisation. `tensor` is the major part, so that
  # a gather over `fsdp` leaves the rows that a device multiplies.
  'adaln': None,
  'adaln_in': ('tensor', 'fsdp'),
  'condition': 'tensor',
  # The tokenizer: the channels inside a residual block lie on `tensor`.
  'conv_in': 'fsdp',
  'conv_out': None,
  'conv_outer': 'fsdp',
  'conv_inner': 'tensor',
}


def make_mesh(
  spec: specs.MeshSpec, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A (data, fsdp, tensor) mesh over all devices.

  Args:
    spec: sizes; one of them may be -1 for what is left.
    devices: all devices of all processes by default.

  Raises:
    ConfigError: sizes that do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = {axis: getattr(spec, axis) for axis in AXES}
  text = ', '.join(f'mesh.{axis}={size}' for axis, size in sizes.items())
  if any(size < 1 and size != -1 for size in sizes.values()):
    raise errors.ConfigError(f'{text}: sizes must be at least 1, or -1')
  free = [axis for axis, size in sizes.items() if size == -1]
  if len(free) > 1:
    raise errors.ConfigError(f'{text}: only one size may be -1')
  fixed = math.prod(size for size in sizes.values() if size != -1)
  if free and len(devices) % fixed == 0:
    sizes[free[0]] = len(devices) // fixed
  elif free or fixed != len(devices):
    raise errors.ConfigError(
      f'{text}: does not fill the {len(devices)} devices; set mesh.data=-1 '
      f'and let mesh.fsdp * mesh.tensor divide {len(devices)}'
    )
  rows = sizes['data'] * sizes['fsdp']
  processes = len({d.process_index for d in devices})
  if rows % processes:
    raise errors.ConfigError(
      f'{text}: mesh.data * mesh.fsdp = {rows} must be a multiple of the '
      f'{processes} processes; make mesh.tensor smaller'
    )
  shape, types = tuple(sizes.values()), (AxisType.Auto,) * len(AXES)
  try:
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
  except NotImplementedError:
    # On a torus, axes that are not whole axes of it share one.
    placed = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
    return Mesh(placed, AXES, axis_types=types)


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[None]:
  """Makes logical constraints inside modules apply to `mesh`."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(RULES.items())):
    yield


def shardings_of(boxed: PyTree, mesh: Mesh) -> PyTree:
  """The sharding of every leaf of an abstract tree.

  Args:
    boxed: arrays or ShapeDtypeStructs; leaves with logical names are boxed
      (`nn.with_logical_partitioning`), others are replicated. Optimiser
      state made from boxed parameters is boxed as well and follows them.
    mesh: from `make_mesh`.

  Returns:
    The unboxed tree, with a NamedSharding for each leaf.

  Raises:
    ConfigError: a mesh axis that does not divide the axis of a parameter,
      an unknown logical name, or one mesh axis used twice on a parameter.
  """

  def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    if not _is_box(leaf):
      return replicated(mesh)
    where = jax.tree_util.keystr(path, simple=True, separator='/')
    return NamedSharding(mesh, _partition(where, leaf, mesh))

  return jax.tree_util.tree_map_with_path(one, boxed, is_leaf=_is_box)


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The leading axis split over all but the tensor axis of the mesh."""
  return NamedSharding(mesh, PartitionSpec(RULES['batch']))


def check_batch_size(key: str, size: int, mesh: Mesh) -> None:
  """Raises ConfigError unless `key`, a batch of `size`, divides evenly."""
  rows = mesh.shape['data'] * mesh.shape['fsdp']
  if size % rows:
    raise errors.ConfigError(
      f'{key}={size}: must be a multiple of {rows}, the product of mesh.data '
      'and mesh.fsdp'
    )


def check_run(run: specs.RunSpec, mesh: Mesh) -> None:
  """Refuses what parameters cannot show: batches, heads, groups.

  Raises:
    ConfigError: a division that is not even, and what would be.
  """
  micro = run.batch_size // run.optim.accumulate
  cut = ' / optim.accumulate' if run.optim.accumulate > 1 else ''
  check_batch_size(f'batch_size{cut}', micro, mesh)
  check_batch_size(
    'eval_batch_size', run.eval_batch_size or run.batch_size, mesh
  )
  if run.task == 'generate':
    key, size = 'model.heads', run.model.heads
  else:
    key, size = 'tokenizer.norm_groups', run.tokenizer.norm_groups
  tensor = mesh.shape['tensor']
  if size % tensor:
    raise errors.ConfigError(
      f'mesh.tensor={tensor}: must divide {key}={size}, which are never cut; '
      f'use {math.gcd(size, tensor)} and more of mesh.data or mesh.fsdp'
    )


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> Batch:
  """Puts this process's share of a batch on its devices.

  Args:
    batch: host arrays whose leading axis holds this process's images.
    mesh: from `make_mesh`.

  Returns:
    Global arrays: with n processes, n times as many rows.

  Raises:
    ConfigError: rows that do not divide over the devices.
  """
  sharding = batch_sharding(mesh)
  for value in batch.values():
    check_batch_size('batch_size', len(value) * jax.process_count(), mesh)
  return {
    key: jax.make_array_from_process_local_data(sharding, np.asarray(value))
    for key, value in batch.items()
  }


def abstract_sharded(
  fn: Callable[..., PyTree], mesh: Mesh, *args: Any
) -> PyTree:
  """Shapes, types and shardings of `fn(*args)`, computing nothing.

  Args:
    fn: returns a tree whose parameters are boxed.
    mesh: from `make_mesh`.
    *args: arrays or ShapeDtypeStructs.

  Returns:
    The unboxed tree of ShapeDtypeStructs with shardings: for restoring a
    checkpoint, or lowering a step ahead of time.

  Raises:
    ConfigError: as `shardings_of`.
  """
  boxed = jax.eval_shape(fn, *args)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    nn.meta.unbox(boxed),
    shardings_of(boxed, mesh),
  )


def init_sharded(fn: Callable[..., PyTree], mesh: Mesh, *args: Any) -> PyTree:
  """`fn(*args)`, unboxed, computed where it will live.

  A full array never exists on one device. Do not call under `use_mesh`.

  Args:
    fn: initialiser that returns a tree whose parameters are boxed.
    mesh: from `make_mesh`.
    *args: for example one random key.

  Raises:
    ConfigError: as `shardings_of`.
  """
  shardings = shardings_of(jax.eval_shape(fn, *args), mesh)
  options = None
  if jax.default_backend() == 'cpu':
    # Dozens of random-number kernels that run once: optimising them takes
    # three times as long as it saves.
    options = {'xla_backend_optimization_level': 0}
  init = jax.jit(
    lambda *xs: nn.meta.unbox(fn(*xs)),
    out_shardings=shardings,
    compiler_options=options,
  )
  return init(*args)


def _is_box(leaf: Any) -> bool:
  return isinstance(leaf, nn.LogicallyPartitioned)


def _partition(where: str, box: Any, mesh: Mesh) -> PartitionSpec:
  shape = box.value.shape
  if len(box.names) != len(shape):
    raise errors.ConfigError(
      f'{where}: {len(box.names)} axis names {box.names} for shape {shape}'
    )
  entries: list[Any] = []
  used: dict[str, str] = {}
  for name, size in zip(box.names, shape, strict=True):
    if name is not None and name not in RULES:
      raise errors.ConfigError(
        f'{where}: unknown logical axis {name!r}; allowed: {", ".join(RULES)}'
      )
    entry = RULES[name] if name is not None else None
    axes = (entry,) if isinstance(entry, str) else entry or ()
    for axis in axes:
      if axis in used:
        raise errors.ConfigError(
          f'{where}: logical axes {used[axis]!r} and {name!r} both map to '
          f'the mesh axis {axis!r}; rename one of them'
        )
      used[axis] = str(name)
    parts = math.prod(mesh.shape[axis] for axis in axes)
    if size % parts:
      raise errors.ConfigError(
        f'mesh.{"*".join(axes)}={parts}: does not divide the {name!r} axis '
        f'of {where}, which has size {size}; use a divisor of {size}'
      )
    entries.append(entry)
  return PartitionSpec(*entries)

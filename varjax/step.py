"""The train step: the maths of one update, and what is compiled of it.

`update` is pure and testable without a mesh. `Program` adds what `jax.jit`
must know: abstract shapes, shardings and donation. The train loop and the
ahead-of-time compiler use the same one.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from varjax import (
  averaging,
  backends,
  devices,
  distributed,
  groups,
  memory,
  optim,
  orders,
  rng,
  sharding,
  validation,
)
from varjax import spec as specs
from varjax.schedule import Steps
from varjax.tasks import make_task
from varjax.tasks.base import Task
from varjax.types import Batch, PyTree

# Options of the compiler, by platform. On a TPU, XLA overlaps the gathering
# of sharded weights with the product that needs them by summing one product
# per shard, so that activations pass through HBM once per shard: six times
# the traffic for an MLP of d16 on v5e:4x4 (benchmarks/tpu_options.py). The
# gathered weights are small beside the activations of an image model.
COMPILER_OPTIONS: dict[str, dict[str, str]] = {
  'tpu': {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'},
}


@flax.struct.dataclass
class TrainState:
  """Everything that a checkpoint must hold to continue a run."""

  step: jax.Array  # int32 scalar, updates done
  params: PyTree  # float32 master weights
  opt_state: PyTree
  task_state: PyTree  # what the task keeps outside of gradients
  ema: PyTree = None  # moving average of the main group's weights, if kept

  @property
  def weights(self) -> PyTree:
    """What is evaluated and sampled from: the average where there is one."""
    return self.params if self.ema is None else self.ema


@flax.struct.dataclass
class Hyper:
  """What trials of a sweep differ in that shapes no program.

  Arguments of the compiled update and not its constants: it is compiled once
  for all of them.
  """

  key: jax.Array  # of the run's seed
  optim: dict[str, optim.Numbers]  # float32 scalars, by parameter group
  ema: jax.Array  # float32 scalar, decay of the averaged weights


def update(
  state: TrainState,
  frozen: PyTree,
  batch: Batch,
  hyper: Hyper,
  *,
  task: Task,
  make_optimizer: Callable[
    [dict[str, optim.Numbers]], optax.GradientTransformation
  ],
  accumulate: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update: gradients, optimiser, the task's own bookkeeping."""
  key = rng.for_step(hyper.key, state.step)
  grad_fn = optim.accumulated_value_and_grad(task.loss_fn, accumulate)
  (loss, output), grads = grad_fn(
    state.params, state.task_state, frozen, batch, rng.stream(key, 'loss')
  )
  optimizer = make_optimizer(hyper.optim)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  params, task_state = task.after_update(
    params, output.state, rng.stream(key, 'after_update'), state.step
  )
  values = dict(output.metrics, loss=loss, grad_norm=optim.global_norm(grads))
  if distributed.MARK in batch:
    values[distributed.MARK] = jnp.max(batch[distributed.MARK])
  averaged = averaging.average(state.ema, params, state.step, hyper.ema)
  after = TrainState(state.step + 1, params, opt_state, task_state, averaged)
  return after, values


def _memory_bytes(mesh: Mesh) -> float | None:
  """Of one device: what its allocator may take, or what the table says.

  The table alone where there are several processes, for all of them must
  choose the same.
  """
  first = mesh.devices.flat[0]
  if jax.process_count() == 1 and first in jax.local_devices():
    limit = (first.memory_stats() or {}).get('bytes_limit')
    if limit:
      return limit
  known = devices.find(first.device_kind)
  return known.memory_bytes if known else None


@dataclasses.dataclass(frozen=True)
class Program:
  """What a run computes on a mesh; needs neither data nor devices.

  Attributes:
    run: what is trained.
    steps: its durations in updates.
    mesh: of real or of described devices.
  """

  run: specs.RunSpec
  steps: Steps
  mesh: Mesh

  @functools.cached_property
  def chosen(self) -> specs.RunSpec:
    """The run, with `model.unroll` and `model.remat` decided for the mesh.

    Raises:
      ConfigError: the memory of its devices is not known, or too small, or
        they have no products of `model.products`.
    """
    if self.run.task != 'generate':
      return self.run
    first = self.mesh.devices.flat[0]
    capability = getattr(first, 'compute_capability', None)
    validation.check_products(self.run.model, first.platform, capability)
    run = self.run
    if run.model.unroll == 0 and self._unrolls:
      model = dataclasses.replace(run.model, scan=False)
      run = dataclasses.replace(run, model=model)
    if run.model.remat != 'auto':
      return run
    sequence = orders.sequence_of(run.order, run.tokenizer)
    return memory.choose_remat(
      run,
      self.mesh.devices.size,
      _memory_bytes(self.mesh),
      sequence,
      self.mesh.devices.flat[0].platform,
    )

  @property
  def _unrolls(self) -> bool:
    """Whether layers are better unrolled than scanned.

    In a scan XLA's GPU compiler writes and reads what each layer keeps once
    more (docs/performance.md). Where weights are in shards, unrolling would
    let it gather those of many layers at once.
    """
    whole = self.mesh.shape['fsdp'] * self.mesh.shape['tensor'] == 1
    return backends.on_gpu(self.mesh.devices.flat[0].platform) and whole

  @functools.cached_property
  def task(self) -> Task:
    """What is optimised."""
    return make_task(self.chosen)

  @functools.cached_property
  def groups(self) -> dict[str, groups.Group]:
    """The parameter groups of all stages."""
    return self.task.groups(self.steps)

  def rates(self, step: int) -> dict[str, float]:
    """Learning rates and decays of the update at `step`."""
    return groups.rates(self.groups, step, **self._lengths)

  def _hyper(self) -> Hyper:
    """Wherever JAX puts it."""
    return Hyper(
      jax.random.key(self.run.seed), self._numbers, np.float32(self.run.ema)
    )

  @functools.cached_property
  def hyper(self) -> Hyper:
    """The seed and the numbers of the run, on every device of the mesh."""
    found, everywhere = self._hyper(), sharding.replicated(self.mesh)
    # From the host: a key that lies on a device of this process cannot be
    # put on those of others.
    data = np.asarray(jax.random.key_data(found.key))
    found = jax.device_put(found.replace(key=data), everywhere)
    return found.replace(key=jax.random.wrap_key_data(found.key))

  @property
  def abstract_hyper(self) -> Hyper:
    """Shapes, types and shardings of `hyper`."""
    return sharding.abstract_sharded(self._hyper, self.mesh)

  @property
  def _scanned(self) -> Task:
    """The same weights by a smaller program."""
    model = dataclasses.replace(self.chosen.model, scan=True, unroll=1)
    return make_task(dataclasses.replace(self.chosen, model=model))

  @property
  def _numbers(self) -> dict[str, optim.Numbers]:
    return groups.numbers_of(self.groups, **self._lengths, real=np.float32)

  @property
  def _lengths(self) -> dict[str, int]:
    return {
      'total_steps': self.steps.total,
      'batch_size': self.run.batch_size,
    }

  @property
  def compiler_options(self) -> dict[str, str]:
    """What the compiler is told on the platform of the mesh."""
    return COMPILER_OPTIONS.get(self.mesh.devices.flat[0].platform, {})

  @property
  def key(self) -> jax.Array:
    """Of the initial state."""
    return rng.stream(jax.random.key(self.run.seed), 'init')

  def init(self, key: jax.Array) -> TrainState:
    """The state before the first update, with logical axis names."""
    params, task_state = self._scanned.init(key)
    optimizer = groups.make_optimizer(self.groups, self._numbers)
    opt_state = optimizer.init(params)
    averaged = None
    if self.run.ema:
      averaged = groups.split(params, self.groups)[groups.MAIN]
    return TrainState(
      jnp.zeros((), jnp.int32), params, opt_state, task_state, averaged
    )

  def init_sharded(self) -> TrainState:
    """The state before the first update, on the devices of the mesh."""
    return sharding.init_sharded(self.init, self.mesh, self.key)

  @functools.cached_property
  def abstract(self) -> TrainState:
    """Shapes, types and shardings of the state."""
    return sharding.abstract_sharded(self.init, self.mesh, self.key)

  def jitted(self, stage: Task) -> Callable[..., Any]:
    """The compiled `update` of one of `task.stages`; donates the state.

    Call it with (state, frozen, batch, hyper), or lower it, under
    `sharding.use_mesh`.
    """
    return jax.jit(
      functools.partial(
        update,
        task=stage,
        make_optimizer=functools.partial(
          groups.make_optimizer,
          self.groups,
          active=stage.groups(self.steps).keys(),
        ),
        accumulate=self.run.optim.accumulate,
      ),
      donate_argnums=0,
      compiler_options=self.compiler_options or None,
      out_shardings=(
        jax.tree.map(lambda leaf: leaf.sharding, self.abstract),
        sharding.replicated(self.mesh),
      ),
    )

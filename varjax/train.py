"""The train loop: setup, abstract shapes, shardings, restore, loop, record.

One loop serves every task. `_step` is the maths of one update, pure and
testable without a mesh; everything around it moves data and keeps accounts.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
from typing import Any

import flax.struct
import jax
import optax

from varjax import (
  checkpoint,
  errors,
  evaluate,
  inputs,
  metrics,
  optim,
  recording,
  rng,
  schedule,
  sharding,
)
from varjax import records as run_records
from varjax import spec as specs
from varjax.clock import Clock
from varjax.progress import Progress
from varjax.runs import Resolved
from varjax.signals import StopSignal
from varjax.tasks import make_task
from varjax.tasks.base import Task
from varjax.types import Batch, PyTree
from varjax.window import Window
from varjax.workdir import Workdir


@flax.struct.dataclass
class TrainState:
  """Everything that a checkpoint must hold to continue a run."""

  step: jax.Array  # int32 scalar, updates done
  params: PyTree  # float32 master weights
  opt_state: PyTree
  task_state: PyTree  # what the task keeps outside of gradients


# What a task leaves for the next stage when its training is done; returns
# the record fields that it determines.
Finish = Callable[[specs.RunSpec, Workdir, TrainState], dict[str, Any]]


def _step(
  state: TrainState,
  frozen: PyTree,
  batch: Batch,
  *,
  task: Task,
  optimizer: optax.GradientTransformation,
  seed: int,
  accumulate: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update: gradients, optimiser, the task's own bookkeeping."""
  key = rng.for_step(seed, state.step)

  def loss_fn(params, task_state, micro_batch, micro_key):
    return task.loss_fn(params, task_state, frozen, micro_batch, micro_key)

  grad_fn = optim.accumulated_value_and_grad(loss_fn, accumulate)
  (loss, output), grads = grad_fn(
    state.params, state.task_state, batch, rng.stream(key, 'loss')
  )
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  params, task_state = task.after_update(
    params, output.state, rng.stream(key, 'after_update'), state.step
  )
  values = dict(output.metrics, loss=loss, grad_norm=optax.global_norm(grads))
  return TrainState(state.step + 1, params, opt_state, task_state), values


def train(
  run: specs.RunSpec,
  workdir: Workdir,
  resolved: Resolved,
  finish: Finish,
  *,
  quiet: bool = False,
  profile_steps: tuple[int, int] | None = None,
) -> run_records.RunRecord:
  """Trains to the end, from the last checkpoint if there is one.

  Args:
    run: what to train.
    workdir: where; must have been claimed for this run.
    resolved: the run's id and the contents that it reads.
    finish: called with the final state before the record is written.
    quiet: no progress bar.
    profile_steps: (first, last) update to trace for xprof.

  Returns:
    The complete record, which is also the last line of `records.jsonl`.

  Raises:
    TrainingStopped: the loss is not finite; the last good state is in the
      checkpoints.
    Interrupted: SIGTERM or SIGINT arrived; the state was saved.
    DataError, ConfigError, CheckpointError: see the message.
  """
  # ------------------------------------------------------------------ setup
  done = recording.complete_record(workdir, resolved.run_id)
  if done is not None:
    print(f'run {done.run_id} is already complete in {workdir.path}')
    return done
  clock = Clock()
  mesh = sharding.make_mesh(run.mesh)
  opened = inputs.open_inputs(run, jax.process_index(), jax.process_count())
  steps = schedule.resolve_run(run, opened.unique_images)
  total = steps.total
  task = make_task(run)
  optimizer = optim.make_optimizer(
    run.optim,
    total_steps=total,
    batch_size=run.batch_size,
    warmup_steps=steps.warmup,
  )

  # --------------------------------------- abstract shapes, shardings, state
  def init(key: jax.Array) -> TrainState:
    params, task_state = task.init(key)
    return TrainState(
      jax.numpy.zeros((), jax.numpy.int32),
      params,
      optimizer.init(params),
      task_state,
    )

  frozen = jax.device_put(opened.frozen, sharding.replicated(mesh))
  key = rng.stream(jax.random.key(run.seed), 'init')
  plan = sharding.plan_init(init, mesh, key)
  store = checkpoint.Checkpoints(
    workdir.checkpoints, resolved.run_id, keep=run.keep_checkpoints
  )
  with store, sharding.activate(mesh):
    # -------------------------------------------------------------- restore
    with clock.phase('setup'):
      restored = store.restore(plan.abstract)
      if restored is None:
        state, first, window = plan.create(), 0, Window()
      else:
        first, state, data_state, meta = restored
        opened.train.set_state(data_state)
        clock.restore(meta['clock'])
        window = Window.restored(meta['window'])
    step_fn = jax.jit(
      functools.partial(
        _step,
        task=task,
        optimizer=optimizer,
        seed=run.seed,
        accumulate=run.optim.accumulate,
      ),
      donate_argnums=0,
      out_shardings=(plan.shardings, sharding.replicated(mesh)),
    )
    evaluator = evaluate.Evaluator(task, mesh, opened.evaluation)
    facts = recording.Facts(
      run, resolved, opened, total, len(mesh.devices.flat)
    )
    writer = metrics.MetricWriter(workdir.path, first_step=first)
    writer.text('parameters', metrics.parameter_overview(state.params))
    profiler = metrics.Profiler(workdir.path, profile_steps)
    bar = Progress(
      workdir.path,
      label=run.name or run.task,
      total_steps=total,
      first_step=first,
      batch_size=run.batch_size,
      quiet=quiet,
    )

    def save(step: int) -> None:
      window.flush()
      _refuse_nan(window, resolved.run_id, store)
      meta = {'clock': clock.state(), 'window': window.state()}
      with clock.phase('checkpoint'):
        store.save(step, state, opened.train.get_state(), meta)

    def evaluate_at(step: int) -> recording.Measured:
      window.flush()
      with clock.phase('evaluate'):
        evaluation = evaluator(state.params, state.task_state, frozen)
      measured = recording.Measured(step, evaluation, window.last, clock)
      writer.write(step, recording.evaluation_scalars(evaluation))
      return measured

    # ----------------------------------------------------------------- loop
    with StopSignal() as stop, writer, bar, profiler:
      for step in range(first, total):
        with clock.phase('data'):
          host_batch = next(opened.train)
          batch = sharding.shard_batch(host_batch, mesh)
        phase = 'compile' if step == first else 'step'
        with clock.phase(phase), jax.transfer_guard('disallow'):
          profiler.at(step)
          state, values = step_fn(state, frozen, batch)
          # The values of the step before: this step is running meanwhile.
          window.push(step, values)
        _refuse_nan(window, resolved.run_id, store)
        bar.update(step + 1, window.last.get('loss'))
        after = step + 1
        if schedule.due(after, steps.log, total):
          window.flush()
          _refuse_nan(window, resolved.run_id, store)
          rates = optim.hyperparameters(optimizer, after)
          writer.write(after, window.means() | rates)
        if after < total and schedule.due(after, steps.evaluate, total):
          measured = evaluate_at(after)
          recording.append_curve(workdir, facts, measured)
        if after < total and schedule.due(after, steps.checkpoint, total):
          save(after)
        if stop.requested:
          save(after)
          store.wait()
          raise errors.Interrupted(
            f'run {resolved.run_id}: stopped by {stop.name} after update '
            f'{after} of {total}; run the same command again to resume'
          )

      # ------------------------------------------------------------- record
      save(total)
      measured = evaluate_at(total)
      recording.append_curve(workdir, facts, measured)
      fields = finish(run, workdir, state)
      store.wait()
      record = recording.complete(workdir, facts, measured, fields)
  return record


def _refuse_nan(
  window: Window, run_id: str, store: checkpoint.Checkpoints
) -> None:
  """Stops the run when a loss that has come back is not finite."""
  loss = window.last.get('loss')
  if loss is None or math.isfinite(loss):
    return
  good = store.latest_step()
  raise errors.TrainingStopped(
    f'run {run_id}: the loss of update {window.last_step + 1} is {loss} '
    f'(the window began at update {window.first_step + 1}); the last good '
    f'checkpoint is {"step " + str(good) if good is not None else "none"}; '
    'try a lower optim.lr or a longer optim.warmup'
  )

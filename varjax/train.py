"""The train loop: setup, abstract shapes, shardings, restore, loop, record.

One loop serves every task. `step.update` is the maths of one update, pure
and testable without a mesh; what is here moves data and keeps accounts.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import math
import os
from typing import Any

import jax
import jax.numpy as jnp

from varjax import (
  checkpoint,
  distributed,
  errors,
  evaluate,
  explain,
  inputs,
  metrics,
  recording,
  schedule,
  sharding,
  warmstart,
)
from varjax import records as run_records
from varjax import spec as specs
from varjax.clock import Clock
from varjax.feeder import Feeder
from varjax.profiler import Profiler
from varjax.progress import Progress, reached_s
from varjax.runs import Resolved
from varjax.signals import StopSignal
from varjax.step import Program, TrainState
from varjax.window import Window
from varjax.workdir import Workdir

# What a task leaves for the next stage when its training is done; returns
# the record fields that it determines.
Finish = Callable[[specs.RunSpec, Workdir, TrainState], dict[str, Any]]
# Scores the images that the weights make after an update, and records that.
Score = Callable[[specs.RunSpec, Workdir, str, TrainState, int], None]


def train(
  run: specs.RunSpec,
  workdir: Workdir,
  resolved: Resolved,
  finish: Finish,
  *,
  score: Score | None = None,
  quiet: bool = False,
  profile_steps: tuple[int, int] | None = None,
) -> run_records.RunRecord:
  """Trains to the end, from the last checkpoint if there is one.

  Args:
    run: what to train.
    workdir: where; must have been claimed for this run.
    resolved: the run's id and the contents that it reads.
    finish: called with the final state before the record is written.
    score: called at the fractions of `run.score`; None never scores.
    quiet: no progress bar.
    profile_steps: (first, last) update to trace for xprof.

  Returns:
    The complete record, which is also the last line of `records.jsonl`.

  Raises:
    TrainingStopped: the loss is not finite; the last good state is in the
      checkpoints.
    Interrupted: SIGTERM or SIGINT arrived; the state was saved.
    DoesNotFit, Stalled, NotWritten, PeerLost: the machine failed; all but
      the first may go away, and then the same call resumes.
    DataError, ConfigError, CheckpointError: see the message.
  """
  # ------------------------------------------------------------------ setup
  done = recording.complete_record(workdir, resolved.run_id)
  if done is not None:
    if jax.process_index() == 0:
      print(f'run {done.run_id} is already complete in {workdir.path}')
    return done
  clock = Clock()
  mesh = sharding.make_mesh(run.mesh)
  sharding.check_run(run, mesh)
  opened = inputs.open_inputs(run, jax.process_index(), jax.process_count())
  steps = schedule.resolve_run(run, opened.unique_images)
  total = steps.total
  program = Program(run, steps, mesh)
  task = program.task

  # --------------------------------------- abstract shapes, shardings, state
  abstract = program.abstract
  frozen = jax.device_put(opened.frozen, sharding.replicated(mesh))
  hyper = program.hyper
  with contextlib.ExitStack() as stack:
    stack.enter_context(explain.failures(run, workdir.path))
    store = stack.enter_context(
      checkpoint.Checkpoints(
        workdir.path, resolved.run_id, keep=run.keep_checkpoints
      )
    )
    # -------------------------------------------------------------- restore
    again = store.latest_step() is not None
    with clock.phase('restart' if again else 'setup'):
      restored = store.restore(abstract)
      if restored is None:
        first, window = 0, Window()
        state = program.init_sharded()
        if run.init_from:
          params = warmstart.start_from(run.init_from, state.params)
          # Of its own: the step donates both.
          average = jax.tree.map(jnp.copy, params) if run.ema else None
          state = state.replace(params=params, ema=average)
      else:
        first, state = restored.step, restored.state
        opened.train.set_state(restored.data_state)
        clock.restore(restored.meta['clock'], reached_s(workdir.path))
        window = Window.restored(restored.meta['window'])
    step_fns = {
      start: program.jitted(stage) for start, stage in task.stages(steps)
    }
    step_fn = step_fns[max(start for start in step_fns if start <= first)]
    evaluator = evaluate.Evaluator(
      task, mesh, opened.evaluation, opened.watchdog, run.data_prefetch
    )
    feeder = Feeder(
      opened.train,
      mesh,
      opened.watchdog,
      run.data_prefetch,
      opened.train.get_state,
    )
    stack.callback(feeder.close)
    facts = recording.Facts(
      run, resolved, opened, total, len(mesh.devices.flat)
    )
    writer = metrics.MetricWriter(
      workdir.path, metrics.tensorboard_available(), resume_step=first
    )
    bar = Progress(
      workdir.path,
      total_steps=total,
      batch_size=run.batch_size,
      start_step=first,
      stream=stack.enter_context(open(os.devnull, 'w')) if quiet else None,
      enabled=jax.process_index() == 0,
      wall_s=lambda: clock.wall_s,
    )

    stack.callback(writer.close)
    stack.callback(bar.close)
    profiler = Profiler(workdir.path, *(profile_steps or (0, 0)))
    stack.callback(profiler.close)
    stop = stack.enter_context(StopSignal())
    anybody = distributed.AnyProcess()
    if jax.process_index() == 0:
      overview = metrics.parameter_overview(state.params)
      (workdir.path / 'parameters.txt').write_text(overview + '\n')
      if program.chosen is not run and not quiet:
        model = program.chosen.model
        layers = 'scanned' if model.scan else 'unrolled'
        print(f'chosen for {mesh.size} x {mesh.devices.flat[0].device_kind}: '
              f'model.remat={model.remat}, layers {layers}')  # fmt: skip

    def save(step: int) -> None:
      window.flush()
      _refuse_nan(window, resolved.run_id, store)
      meta = {'clock': clock.state(), 'window': window.state()}
      with clock.phase('checkpoint'):
        store.save(step, state, feeder.get_state(), meta)

    def evaluate_at(step: int) -> recording.Measured:
      window.flush()
      with clock.phase('evaluate'):
        evaluation = evaluator(state.weights, state.task_state, frozen)
      # Where one process waits for its data, all wait for that process.
      stalls = distributed.gather(repr(clock.data_stall))
      stall = max(map(float, stalls))
      measured = recording.Measured(step, evaluation, window.last, clock, stall)
      writer.write(step, evaluation.mean, 'eval')
      recording.append_curve(workdir, facts, measured)
      return measured

    scored = {max(round(f * total), 1) for f in run.score.fractions}

    def score_at(step: int) -> None:
      if score is not None and step in scored:
        window.flush()
        _refuse_nan(window, resolved.run_id, store)
        with clock.phase('evaluate'):
          score(run, workdir, resolved.run_id, state, step)

    # ----------------------------------------------------------------- loop
    for step in range(first, total):
      profiler.before(step)
      with clock.phase('data'):
        batch = feeder.take(window.is_running)
        mark = anybody.mark(opened.local_rows, stop.requested)
        batch |= sharding.shard_batch(mark, mesh)
      clock.idle_s += feeder.idle_s
      # The first call of a stage compiles.
      step_fn = step_fns.get(step, step_fn)
      compiles = step == first or step in step_fns
      with clock.phase('compile' if compiles else 'step'):
        with jax.transfer_guard('disallow'), sharding.use_mesh(mesh):
          state, values = step_fn(state, frozen, batch, hyper)
        asked = anybody(values, stop.requested)
        # Fetches the values of the step before: this one is running.
        window.push(step, values)
      _refuse_nan(window, resolved.run_id, store)
      after = step + 1
      bar.update(after, window.last.get('loss'))
      if schedule.due(after, steps.log, total):
        window.flush()
        _refuse_nan(window, resolved.run_id, store)
        writer.write(after, window.means() | program.rates(step))
      if after == total:
        break
      if schedule.due(after, steps.evaluate, total):
        evaluate_at(after)
      score_at(after)
      if schedule.due(after, steps.checkpoint, total):
        save(after)
      if asked:
        save(after)
        store.wait()
        raise errors.Interrupted(
          f'run {resolved.run_id}: stopped by {stop} after update '
          f'{after} of {total}; run the same command again to resume'
        )

    # --------------------------------------------------------------- record
    save(total)
    measured = evaluate_at(total)
    score_at(total)
    fields = finish(run, workdir, state)
    store.wait()
    return recording.complete(workdir, facts, measured, fields)


def _refuse_nan(
  window: Window, run_id: str, store: checkpoint.Checkpoints
) -> None:
  """Stops the run when a loss or gradient that came back is not finite.

  The gradient as well: one that is not finite spoils the weights while the
  loss, which was computed before the update, still looks well.
  """
  spoilt = [
    f'{name.replace("_", " ")} of update {window.last_step + 1} is {value}'
    for name in ('loss', 'grad_norm')
    if not math.isfinite(value := window.last.get(name, 0.0))
  ]
  if not spoilt:
    return
  good = store.latest_step()
  raise errors.TrainingStopped(
    f'run {run_id}: the {spoilt[0]} '
    f'(the window began at update {window.first_step + 1}); the last good '
    f'checkpoint is {"step " + str(good) if good is not None else "none"}; '
    'try a lower optim.lr or a longer optim.warmup'
  )

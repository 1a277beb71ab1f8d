"""Progressive training: coarse scales first, finer ones joining later.

An option of the official trainer that only saves compute. A stage trains
the tokens of its first scales; the newest scale's loss fades in. Pure rules
for the task, the train loop and the accounts, without JAX: the transformer
takes any prefix of whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from varjax import flops, params
from varjax import spec as specs
from varjax.schedule import Steps

# The newest scale never counts for less than this share (official clip).
_LEAST_WEIGHT = 0.01


@dataclasses.dataclass(frozen=True)
class Stage:
  """The updates that train the same scales.

  Attributes:
    start, stop: updates start <= step < stop.
    last: index of the finest scale trained.
    fade_steps: updates over which that scale's loss fades in.
  """

  start: int
  stop: int
  last: int
  fade_steps: int = 0


@dataclasses.dataclass(frozen=True)
class Work:
  """What a run has trained on.

  Attributes:
    tokens: code positions seen, repeats counted.
    total, body: training FLOPs, of everything and of the blocks.
  """

  tokens: int
  total: int
  body: int


def stages(run: specs.RunSpec, steps: Steps) -> tuple[Stage, ...]:
  """The stages of a run in their order; a single one without progression."""
  scales = len(run.tokenizer.scales)
  spec = run.progressive
  if not spec.share:
    return (Stage(0, steps.total, scales - 1),)
  found: list[Stage] = []
  for step in range(steps.total):
    last = stage_at(
      step, steps.warmup, steps.total, spec.share, spec.first, scales
    )
    if found and found[-1].last == last:
      continue
    if found:
      found[-1] = dataclasses.replace(found[-1], stop=step)
    found.append(Stage(step, steps.total, last, steps.fade))
  return tuple(found)


def optim_spec(run: specs.RunSpec) -> specs.OptimSpec:
  """The optimiser of a run: progression forces the schedule `lin<share>`."""
  if not run.progressive.share:
    return run.optim
  return dataclasses.replace(run.optim, schedule=f'lin{run.progressive.share}')


def work(
  run: specs.RunSpec,
  steps: Steps,
  done: int,
  sequence: flops.Sequence | None = None,
) -> Work:
  """What the first `done` updates of a `generate` run train on.

  Args:
    run: the run.
    steps: its lengths.
    done: updates made.
    sequence: of the run's order; only next-scale needs none, and only it
      has stages.

  Raises:
    ConfigError: another order without its sequence.
  """
  if sequence is not None and not run.progressive.share:
    images = min(done, steps.total) * run.batch_size
    per_image = flops.train_flops_per_image(run.model, sequence)
    return Work(
      tokens=images * sequence.predicted,
      total=images * per_image.total,
      body=images * per_image.body,
    )
  if sequence is None:
    params.scale_sequence(run)  # Refuses other orders.
  tokens = total = body = 0
  for stage in stages(run, steps):
    images = max(0, min(done, stage.stop) - stage.start) * run.batch_size
    trained = dataclasses.replace(
      run.tokenizer, scales=run.tokenizer.scales[: stage.last + 1]
    )
    per_image = flops.train_flops_per_image(run.model, trained)
    tokens += images * flops.sequence_of(trained).positions
    total += images * per_image.total
    body += images * per_image.body
  return Work(tokens=tokens, total=total, body=body)


def stage_at(
  step: int,
  warmup_steps: float,
  total_steps: int,
  share: float,
  first: int,
  num_scales: int,
) -> int:
  """The highest scale that is trained at an update.

  Args:
    step: updates made so far.
    warmup_steps: length of the learning rate's warm-up.
    total_steps: updates of the whole run.
    share: part of the run after which every scale is trained (official
      `pg`); 0 trains every scale from the start.
    first: highest scale of the first stage (official `pg0`).
    num_scales: K.

  Returns:
    Index in [0, K).
  """
  last = num_scales - 1
  if share <= 0:
    return last
  first = min(first, last)
  if step <= warmup_steps:
    return first
  if step >= share * total_steps:
    return last
  progress = (step - warmup_steps) / (share * total_steps - warmup_steps)
  return first + round(progress * (last - first))


def newest_weight(
  stage: int,
  num_scales: int,
  steps_in_stage: Any,
  fade_steps: float,
  is_first_stage: bool,
  xp: Any = np,
) -> Any:
  """Factor on the newest scale's loss.

  Args:
    stage: of `stage_at`.
    num_scales: K; the last stage is plain training, with factor 1.
    steps_in_stage: updates of this stage, the present one included; a
      number or an array.
    fade_steps: length of the fade (official `pgwp` times updates an epoch).
    is_first_stage: the stage that the run began with does not fade.
    xp: numpy, or jax.numpy inside jit.
  """
  if is_first_stage or stage == num_scales - 1 or fade_steps <= 0:
    return 1.0
  return xp.clip(steps_in_stage / fade_steps, _LEAST_WEIGHT, 1.0)


def stage_weights(
  block_sizes: Sequence[int], stage: int, newest: Any = 1.0, xp: Any = np
) -> Any:
  """Loss weights of the positions that a stage trains.

  Args:
    block_sizes: positions of each scale.
    stage: highest scale trained.
    newest: factor on that scale, a number or an array.
    xp: numpy, or jax.numpy inside jit.

  Returns:
    float32 [end of the stage]; the loss is sum(weights * ce) / L with the
    full L, so that stages have comparable gradients.
  """
  older = xp.ones(sum(block_sizes[:stage]), np.float32)
  last = xp.full(block_sizes[stage], newest, np.float32)
  return xp.concatenate([older, last])

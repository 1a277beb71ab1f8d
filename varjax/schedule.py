"""Durations to update counts, and the learning-rate and decay schedules.

Between the config and the optimiser. Pure Python and NumPy: planning and
accounting use it without JAX, the optimiser passes `jax.numpy` as `xp`.
Schedules are those of VAR (arXiv 2404.02905, official training code);
`step` is the number of updates already made, so the first update has 0.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from varjax import errors
from varjax import spec as specs

# Training images of data sets, to plan runs where they are not at hand.
KNOWN_IMAGES = {'imagenet2012': 1_281_167}
# Share of the run after warm-up that stays at the peak.
_PLATEAUS = {'lin00': 0.0, 'lin0': 0.05, 'lin': 0.15, 'cos': 0.0, 'exp': 0.15}


@dataclasses.dataclass(frozen=True)
class AdversarialSteps:
  """When the adversarial loss of stage 1 does what, in updates.

  Attributes:
    start: updates before there is one.
    warmup, blur: lengths, counted from `start`.
    lr_warmup: of the discriminator's learning rate, from `start` as well.
  """

  start: int
  warmup: int
  blur: int
  lr_warmup: int


@dataclasses.dataclass(frozen=True)
class Steps:
  """Every duration of a run in updates; an interval of 0 is never."""

  total: int
  warmup: int
  evaluate: int
  checkpoint: int
  log: int
  fade: int = 0
  adversarial: AdversarialSteps | None = None


def resolve(
  duration: specs.Duration,
  *,
  batch_size: int,
  unique_images: int = 0,
  total_steps: int = 0,
) -> int:
  """Updates in a duration.

  Images and epochs round up, so that a run never sees fewer images than it
  was asked for; a share of the run rounds to the nearest update, ties to
  even (as the official warm-up does).

  Args:
    duration: at most one field set; none is 0 updates.
    batch_size: images per update.
    unique_images: images in the training split, for epochs.
    total_steps: updates of the run, for frac.

  Raises:
    ConfigError: epochs without unique_images, or frac without total_steps.
  """
  if duration.steps:
    return duration.steps
  if duration.images:
    return -(-duration.images // batch_size)
  if duration.epochs:
    if unique_images < 1:
      raise errors.ConfigError(
        f'a duration of {duration.epochs:g} epochs needs the number of '
        'training images; set images or steps instead'
      )
    # Rounded first: 0.1 * 30 is 3.0000000000000004 and means 3.
    images = math.ceil(round(duration.epochs * unique_images, 6))
    return -(-images // batch_size)
  if duration.frac:
    if total_steps < 1:
      raise errors.ConfigError(
        f'a duration of frac={duration.frac:g} needs the length of the run; '
        'set images, steps or epochs instead'
      )
    return round(duration.frac * total_steps)
  return 0


def resolve_run(run: specs.RunSpec, unique_images: int) -> Steps:
  """All durations of a run; an interval that is set is at least 1 update.

  Raises:
    ConfigError: a duration needs what is not known.
  """
  total = resolve(
    run.total, batch_size=run.batch_size, unique_images=unique_images
  )

  def steps(duration: specs.Duration) -> int:
    return resolve(
      duration,
      batch_size=run.batch_size,
      unique_images=unique_images,
      total_steps=total,
    )

  def interval(duration: specs.Duration) -> int:
    return max(1, steps(duration)) if duration != specs.Duration() else 0

  gan, adversarial = run.reconstruct.adversarial, None
  if run.task == 'reconstruct' and gan.discriminator:
    adversarial = AdversarialSteps(
      start=steps(gan.start),
      warmup=steps(gan.warmup),
      blur=steps(gan.blur),
      lr_warmup=steps(gan.optim.warmup),
    )
  return Steps(
    total=total,
    warmup=steps(run.optim.warmup),
    evaluate=interval(run.evaluate),
    checkpoint=interval(run.checkpoint),
    log=interval(run.log),
    fade=steps(run.progressive.fade),
    adversarial=adversarial,
  )


def due(step: int, every_steps: int, total_steps: int) -> bool:
  """Whether something happens after `step` updates: always after the last."""
  if step >= total_steps:
    return True
  return every_steps > 0 and step > 0 and step % every_steps == 0


def peak_lr(optim: specs.OptimSpec, batch_size: int) -> float:
  """The peak learning rate at `batch_size` images per update."""
  if not optim.lr_reference_batch:
    return optim.lr
  return optim.lr * batch_size / optim.lr_reference_batch


def check_schedule(name: str) -> None:
  """Raises ConfigError unless `lr_factor` knows the schedule `name`."""
  _knee(name)


class Ramp(NamedTuple):
  """The numbers of a learning-rate schedule; factors are of its peak.

  What could be divided or subtracted once is: a compiled program that gets
  these as arguments then does the arithmetic that it would do if they were
  its constants.

  Attributes:
    warmup: updates of the warm-up.
    start: factor at step 0, when there is a warm-up.
    rise: growth of the factor in an update of the warm-up.
    pace: share of what follows the warm-up that is one update.
    final: factor at the last step.
    drop: from the peak to the end.
    log_final: logarithm of the final factor, for 'exp'.
    slope: before the knee of 'lin<T>', where p is the share of the way.
    rest: from the knee of 'lin<T>' to the end.
  """

  warmup: Any
  start: Any
  rise: Any
  pace: Any
  final: Any
  drop: Any
  log_final: Any
  slope: Any
  rest: Any


def ramp(
  name: str,
  *,
  total_steps: int,
  warmup_steps: int = 0,
  warmup_start: float = 0.005,
  final: float = 0.0,
  real: Callable[[float], Any] = float,
) -> Ramp:
  """The numbers of a schedule.

  Args:
    name: 'lin00', 'lin0', 'lin' (a plateau of 0, 5 or 15 per cent, then
      linear to `final`), 'cos', 'exp', or 'lin<T>' with 0 < T < 1 (linear
      at half the slope until the share T of the run, then steeper).
    total_steps: updates of the run; the last one has step total_steps - 1
      and the factor `final`.
    warmup_steps: updates of the linear warm-up.
    warmup_start: the factor at step 0, when there is a warm-up.
    final: the factor at the last step.
    real: type of the numbers; every one of them is rounded to it where a
      compiler would round a constant.

  Raises:
    ConfigError: an unknown schedule.
  """
  knee = _knee(name)
  # Halfway in slope; only 'lin<T>' reads it.
  middle = (1 + final + (1 - final) * (1 - knee)) / 2
  return Ramp(
    warmup=np.int32(warmup_steps),
    start=real(warmup_start),
    rise=real(1 - warmup_start) * _inverse(max(warmup_steps, 1), real),
    pace=_inverse(max(total_steps - 1 - warmup_steps, 1), real),
    final=real(final),
    drop=real(1 - final),
    # The official code fails for a final factor of 0; its limit is taken.
    log_final=real(math.log(max(final, 1e-12))),
    slope=real(middle - 1) * _inverse(knee or 1.0, real),
    rest=real(middle - final),
  )


def lr_factor(name: str, numbers: Ramp, step: Any, xp: Any = np) -> Any:
  """The learning rate over its peak.

  Args:
    name: of the schedule, as in `ramp`.
    numbers: of `ramp`, of the same schedule.
    step: updates already made, an integer or an array of any shape; steps
      after the last have the final factor.
    xp: numpy, or jax.numpy inside jit.

  Raises:
    ConfigError: an unknown schedule.
  """
  knee = _knee(name)
  p = xp.clip((step - numbers.warmup) * numbers.pace, 0.0, 1.0)
  rest = xp.clip((1 - p) / (1 - knee), 0.0, 1.0)
  if name == 'cos':
    falling = numbers.final + numbers.drop * (0.5 + 0.5 * xp.cos(math.pi * p))
  elif name == 'exp':
    falling = xp.exp(numbers.log_final * (1 - rest))
  elif name in _PLATEAUS:
    falling = numbers.final + numbers.drop * rest
  else:
    falling = xp.where(
      p < knee,
      1 + numbers.slope * p,
      numbers.final + numbers.rest * rest,
    )
  rising = numbers.start + numbers.rise * step
  return xp.where(step < numbers.warmup, rising, falling)


class Decay(NamedTuple):
  """The numbers of a weight-decay schedule; see `Ramp`.

  Attributes:
    end: the last decay.
    drop: from the first to the last.
    pace: share of the run that is one update.
  """

  end: Any
  drop: Any
  pace: Any


def decay(
  *,
  total_steps: int,
  start: float,
  end: float = -1.0,
  real: Callable[[float], Any] = float,
) -> Decay:
  """The numbers of a half cosine from `start` to `end`.

  A negative `end` keeps `start`. `real` is as in `ramp`.
  """
  end = start if end < 0 else end
  return Decay(real(end), real(start - end), _inverse(max(total_steps - 1, 1),
                                                      real))  # fmt: skip


def weight_decay_at(numbers: Decay, step: Any, xp: Any = np) -> Any:
  """Weight decay at a step; `step` and `xp` are as in `lr_factor`."""
  p = xp.clip(step * numbers.pace, 0.0, 1.0)
  return numbers.end + numbers.drop * (0.5 + 0.5 * xp.cos(math.pi * p))


def _inverse(value: float, real: Callable[[float], Any]) -> Any:
  return real(1) / real(value)


def _knee(name: str) -> float:
  """Where the schedule bends, as a share of the run after warm-up."""
  if name in _PLATEAUS:
    return _PLATEAUS[name]
  try:
    knee = float(name.removeprefix('lin')) if name.startswith('lin') else -1.0
  except ValueError:
    knee = -1.0
  if not 0 < knee < 1:
    raise errors.ConfigError(
      f'optim.schedule={name!r}: must be one of {", ".join(_PLATEAUS)}, or '
      "'lin<T>' with 0 < T < 1, such as lin0.8"
    )
  return knee

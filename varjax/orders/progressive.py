"""Progressive training: coarse scales first, finer ones joining later.

An option of the official trainer that only saves compute. A stage trains
the tokens of its first scales; the newest scale's loss fades in. Pure rules
without arrays on a device: the transformer takes any prefix of whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# The newest scale never counts for less than this share (official clip).
_LEAST_WEIGHT = 0.01


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
  steps_in_stage: int,
  fade_steps: float,
  is_first_stage: bool,
) -> float:
  """Factor on the newest scale's loss.

  Args:
    stage: of `stage_at`.
    num_scales: K; the last stage is plain training, with factor 1.
    steps_in_stage: updates of this stage, the present one included.
    fade_steps: length of the fade (official `pgwp` times updates an epoch).
    is_first_stage: the stage that the run began with does not fade.
  """
  if is_first_stage or stage == num_scales - 1 or fade_steps <= 0:
    return 1.0
  return min(max(steps_in_stage / fade_steps, _LEAST_WEIGHT), 1.0)


def stage_weights(
  block_sizes: Sequence[int], stage: int, newest: float = 1.0
) -> np.ndarray:
  """Loss weights of the positions that a stage trains.

  Args:
    block_sizes: positions of each scale.
    stage: highest scale trained.
    newest: factor on that scale.

  Returns:
    float32 [end of the stage]; the loss is sum(weights * ce) / L with the
    full L, so that stages have comparable gradients.
  """
  weights = np.ones(sum(block_sizes[: stage + 1]), np.float32)
  weights[weights.size - block_sizes[stage] :] = newest
  return weights

"""A moving average of the weights, which generalises better than the last.

Between the optimiser and the train state. Evaluation, sampling and the
exported tokenizer use the average where a run keeps one. The decay rises
with the run as in the authors' tokenizer trainer (FoundationVision/vaex),
so that the random start is forgotten at once.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from varjax.types import PyTree


def average(
  averaged: PyTree, params: PyTree, step: jax.Array, decay: float
) -> PyTree:
  """The average after an update.

  With n = step // 2, it is d * averaged + (1 - d) * params where
  d = min(decay, (n + 1) / (n + 10)).

  Args:
    averaged: before the update, float32; None stays None.
    params: after the update; a dictionary may have entries of which no
      average is kept.
    step: updates made before this one, int32 scalar.
    decay: in the long run.
  """
  if averaged is None:
    return None
  if isinstance(averaged, dict):
    params = {name: params[name] for name in averaged}
  half = (step // 2).astype(jnp.float32)
  kept = jnp.minimum(decay, (half + 1) / (half + 10))
  return jax.tree.map(lambda a, p: p + kept * (a - p), averaged, params)

"""A damped Newton method for thousands of small fits at once, in NumPy.

Starts and bootstrap replicates of one data set share their inputs, so a
step of all of them is a few batched matrix products. Each problem begins
with majorise-minimise steps (positive definite, globally convergent,
linear near a Huber kink) and turns to the exact Hessian, with its
eigenvalues made positive, when progress slows: quadratic convergence once
the set of residuals inside delta is settled. Every step lowers the
objective; parameters stay inside their box.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from varjax.scaling.objective import Problem


@dataclasses.dataclass(frozen=True)
class Optimum:
  """Where each problem of the batch ended.

  Attributes:
    theta: [b, p]; value: [b], in the optimiser's scale.
    steps: [b] steps taken; moved: [b] whether the value fell at all.
    converged: [b] whether no descent step was left.
  """

  theta: np.ndarray
  value: np.ndarray
  steps: np.ndarray
  moved: np.ndarray
  converged: np.ndarray


def minimise(
  problem: Problem,
  starts: np.ndarray,
  max_steps: int | None = None,
  chunk: int | None = None,
) -> Optimum:
  """Runs every start to its local minimum.

  Args:
    problem: its batch is 1 (shared) or b.
    starts: [b, p].
    max_steps: after which a problem that still improves by more than 1e-3
      in 50 steps counts as not converged; by default 300, or 1500 for small
      tables, whose floors lie in long flat valleys.
    chunk: problems optimised together; by default so many that their
      Jacobians stay in the cache, which is twice as fast as all at once.

  Returns:
    The optima, in the order of the starts.
  """
  if max_steps is None:
    max_steps = 1500 if problem.y.shape[1] <= 64 else 300
  if chunk is None:
    chunk = max(16, 8000 // problem.y.shape[1])
  parts = []
  for first in range(0, len(starts), chunk):
    rows = np.arange(first, min(first + chunk, len(starts)))
    parts.append(_minimise(problem.take(rows), starts[rows], max_steps))
  return Optimum(
    *(
      np.concatenate([getattr(p, f.name) for p in parts])
      for f in dataclasses.fields(Optimum)
    )
  )


def _minimise(problem: Problem, starts: np.ndarray, max_steps: int) -> Optimum:
  low, high = problem.bounds[:, 0], problem.bounds[:, 1]
  theta = np.clip(starts, low, high)
  value = problem.value(theta)
  count = len(theta)
  first = value.copy()
  damping = np.full(count, 1e-2)
  majorise = np.ones(count, bool)
  idle = np.zeros(count, int)
  steps = np.zeros(count, int)
  active = np.isfinite(value)
  earlier = value.copy()
  for step_number in range(max_steps):
    if step_number == max_steps - 50:
      earlier = value.copy()
    rows = np.flatnonzero(active)
    if not len(rows):
      break
    part = problem.take(rows)
    step = _step(part, theta[rows], damping[rows], majorise[rows], low, high)
    trial = np.clip(theta[rows] + step, low, high)
    with np.errstate(over='ignore', invalid='ignore'):
      found = part.value(trial)
    better = found < value[rows]
    gain = np.where(better, value[rows] - found, 0.0)
    gain /= np.maximum(np.abs(value[rows]), 1e-300)
    won = rows[better]
    theta[won], value[won] = trial[better], found[better]
    steps[rows] += 1
    damping[rows] *= np.where(better, 0.2, 6.0)
    damping[rows] = np.clip(damping[rows], 1e-12, 1e10)
    # A problem that makes little progress changes its kind of step, and is
    # done when neither kind helps any more, however short.
    slow = gain < 1e-3
    majorise[rows] = np.where(slow, ~majorise[rows], majorise[rows])
    idle[rows] = np.where(gain < 1e-12, idle[rows] + 1, 0)
    active[rows] = idle[rows] < 14
  settled = earlier - value <= 1e-3 * np.abs(value)
  return Optimum(theta, value, steps, value < first, ~active | settled)


def _step(
  problem: Problem,
  theta: np.ndarray,
  damping: np.ndarray,
  majorise: np.ndarray,
  low: np.ndarray,
  high: np.ndarray,
) -> np.ndarray:
  gradient, hessian = problem.quadratic(theta, majorise)
  blocked = ((theta <= low) & (gradient > 0)) | (
    (theta >= high) & (gradient < 0)
  )
  gradient = np.where(blocked, 0.0, gradient)
  free = (~blocked).astype(float)
  hessian = hessian * free[:, :, None] * free[:, None, :]
  size = np.sqrt(np.maximum(np.abs(_diagonal(hessian)), 1e-30))
  scaled = hessian / (size[:, :, None] * size[:, None, :])
  bad = ~np.isfinite(scaled).all(axis=(1, 2))
  scaled[bad] = np.eye(theta.shape[1])
  values, vectors = np.linalg.eigh(scaled)
  g = np.einsum('bpq,bp->bq', vectors, gradient / size)
  g = -g / (np.abs(values) + damping[:, None] + 1e-12)
  step = np.einsum('bpq,bq->bp', vectors, g) / size
  # A step of more than a few e-folds leaves the region of the quadratic.
  longest = np.max(np.abs(step), axis=1, keepdims=True)
  step = step * np.minimum(1.0, 3.0 / np.maximum(longest, 1e-300))
  return np.where(np.isfinite(step) & ~blocked, step, 0.0)


def _diagonal(matrix: np.ndarray) -> np.ndarray:
  return np.diagonal(matrix, axis1=1, axis2=2)

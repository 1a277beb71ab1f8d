"""Approach 2: the minimum of the loss at each budget, and its trend.

Hoffmann 2022, section 3.2 (a parabola in log N per budget); Porian 2024
(Akima interpolation, weighted regression). A parabola is symmetric, a real
isoFLOP curve is not where alpha differs from beta: the minimum is biased,
by more the wider the budget is sampled (up to a factor .77 at x16), and the
bias is estimated from a fitted surface and reported beside the result.
Minima are validated: too few runs, a wrong curvature or a vertex outside
the sampled range take a budget out, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from scipy import interpolate

from varjax import errors
from varjax.scaling import identify, optimum

METHODS = ('parabola', 'akima')


@dataclasses.dataclass(frozen=True)
class Budget:
  """One budget's runs and their minimum.

  Attributes:
    c: FLOP; x: [m] log sizes (N or D); y: [m] losses; rows: of the table.
    best: log of the optimal size, nan where refused.
    loss: at the minimum.
    why: null, or why the budget is not used; kind: its refusal class.
  """

  c: float
  x: np.ndarray
  y: np.ndarray
  rows: np.ndarray
  best: float
  loss: float
  why: str | None = None
  kind: type[identify.Refusal] | None = None


@dataclasses.dataclass(frozen=True)
class IsoFlop:
  """Minima per budget and their power law size* = exp(log_g) C^exponent.

  Attributes:
    method: parabola or akima; size: 'n' or 'd'.
    budgets: all, also the refused ones.
    exponent, log_g: of the log-log line.
    draws: [b] exponents of resampled runs; draws_g: [b] intercepts.
    seed: of the resampling.
  """

  method: str
  size: str
  budgets: tuple[Budget, ...]
  exponent: float
  log_g: float
  draws: np.ndarray
  draws_g: np.ndarray
  seed: int
  refusals: tuple[identify.Refusal, ...] = ()

  @property
  def valid(self) -> list[Budget]:
    """Budgets with a minimum inside of their runs: the points of the line."""
    return [b for b in self.budgets if b.why is None]

  @property
  def interval(self) -> tuple[float, float] | None:
    """95 % of the exponent by the bootstrap; None of fewer than 20 draws."""
    if len(self.draws) < 20:
      return None
    lo, hi = np.percentile(self.draws, [2.5, 97.5])
    return float(lo), float(hi)

  def predict(self, flops: Any) -> np.ndarray:
    """The optimal size at a budget."""
    return np.exp(self.log_g + self.exponent * np.log(flops))


def isoflop(
  frame: pd.DataFrame,
  *,
  method: str = 'parabola',
  size: str = 'n',
  replicates: int = 400,
  seed: int = 0,
  least: int = 4,
  force: bool = False,
) -> IsoFlop:
  """The isoFLOP analysis of a table.

  Args:
    frame: n, d, c, y; runs of a budget share c (within 10 %).
    method: parabola (in log size) or akima (local interpolation).
    size: 'n' or 'd', what is optimised.
    replicates: bootstrap resamples of the runs within each budget.
    seed: of the bootstrap.
    least: runs per budget, at least (parabola); akima needs 5.
    force: keep a refusal and go on with two budgets.

  Returns:
    The minima and their power law.

  Raises:
    FitRefused: fewer than three budgets with a valid minimum, or less than
      half of the runs in such budgets; the type is that of the commonest
      reason.
    ConfigError: an unknown method.
  """
  if method not in METHODS:
    raise errors.ConfigError(
      f'isoFLOP method {method!r} is unknown; use {" or ".join(METHODS)}'
    )
  gate = identify.Gate(force)
  good = identify.check_values(
    {'c': frame['c'].to_numpy(float), size: frame[size].to_numpy(float)},
    frame['y'].to_numpy(float), gate,
  )  # fmt: skip
  frame = frame[good].reset_index(drop=True)
  least = max(least, 5) if method == 'akima' else least
  budgets = tuple(
    _budget(frame, rows, method, size, least)
    for rows in _groups(frame['c'].to_numpy(float))
  )
  valid = [b for b in budgets if b.why is None]
  # A table that was no isoFLOP sweep has a few budgets by accident.
  share = sum(len(b.x) for b in valid) / max(len(frame), 1)
  if len(valid) < 3 or share < 0.5:
    _refuse(budgets, valid, gate)
  if len(valid) < 2:
    raise gate.kept[-1]
  exponent, log_g = line([b.c for b in valid], [np.exp(b.best) for b in valid])
  draws, draws_g = resampled_lines(valid, method, replicates, seed)
  return IsoFlop(
    method, size, budgets, exponent, log_g, draws, draws_g, seed,
    tuple(gate.kept),
  )  # fmt: skip


def line(c: Any, size: Any, weights: Any = None) -> tuple[float, float]:
  """Exponent and log intercept of a (weighted) log-log regression.

  Args:
    c: budgets [m], FLOP; size: optimal sizes [m].
    weights: [m], 1 / variance of log size; 1 by default. Budgets without a
      finite size are left out.

  Raises:
    TooFewPoints: fewer than two budgets are left.
  """
  x, y = np.log(np.asarray(c, float)), np.log(np.asarray(size, float))
  w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
  known = np.isfinite(x) & np.isfinite(y) & np.isfinite(w)
  x, y, w = x[known], y[known], w[known]
  if identify.count_levels(x) < 2:
    raise identify.TooFewPoints(
      f'a line needs two budgets, but {identify.count_levels(x)} have an '
      'optimal size', 'add budgets',
    )  # fmt: skip
  mean_x, mean_y = np.average(x, weights=w), np.average(y, weights=w)
  slope = np.sum(w * (x - mean_x) * (y - mean_y)) / np.sum(
    w * (x - mean_x) ** 2
  )
  return float(slope), float(mean_y - slope * mean_x)


def asymmetry(
  found: IsoFlop, params: Mapping[str, float], k: float
) -> dict[str, float]:
  """What the parabola would report on noise-free data of a known surface.

  Args:
    found: the analysis whose design is replayed.
    params: E, A, B, alpha, beta of a surface fitted to the same runs.
    k: C = k N D.

  Returns:
    {size_bias: relative error of the optimal size at the largest budget,
    exponent_bias, alpha, beta}.
  """
  split = optimum.exponents(params)
  c, sizes = [], []
  for budget in found.valid:
    n = np.exp(budget.x)
    n = n if found.size == 'n' else budget.c / (k * n)
    y = optimum.surface(params, n, budget.c / (k * n))
    best, _ = _vertex(budget.x, y, np.ones(len(y)))
    c.append(budget.c)
    sizes.append(float(np.exp(best)))
  exponent, log_g = line(c, sizes)
  top = max(c)
  n_true, d_true, _ = optimum.optimum(params, top, k)
  true = n_true if found.size == 'n' else d_true
  measured = np.exp(log_g + exponent * np.log(top))
  return {
    'size_bias': float(measured / true - 1.0),
    'exponent_bias': exponent
    - float(split['a' if found.size == 'n' else 'b']),
    'alpha': float(params['alpha']), 'beta': float(params['beta']),
  }  # fmt: skip


def _groups(c: np.ndarray) -> list[np.ndarray]:
  logs = np.log(c)
  order = np.argsort(logs, kind='stable')
  label = np.concatenate([[0], np.cumsum(np.diff(logs[order]) > 0.1)])
  return [order[label == i] for i in range(int(label.max()) + 1)]


def _budget(frame, rows, method: str, size: str, least: int) -> Budget:
  c = float(np.exp(np.mean(np.log(frame['c'].to_numpy(float)[rows]))))
  x = np.log(frame[size].to_numpy(float)[rows])
  y = frame['y'].to_numpy(float)[rows]
  order = np.argsort(x, kind='stable')
  x, y, rows = x[order], y[order], rows[order]
  distinct = identify.count_levels(x, 1e-6)
  if distinct < least:
    why = f'{distinct} sizes, {least} are needed'
    return Budget(c, x, y, rows, np.nan, np.nan, why, identify.TooFewPoints)
  spread = float(np.ptp(np.log(frame['c'].to_numpy(float)[rows])))
  if spread > np.log(1.3):
    why = f'its runs span a factor of {np.exp(spread):.3g} in compute'
    return Budget(c, x, y, rows, np.nan, np.nan, why, identify.TooFewPoints)
  best, loss = _minimum(x, y, method)
  kind, why = None, None
  if not np.isfinite(best):
    kind = identify.WrongCurvature
    why = 'the curvature has the wrong sign'
  elif not x[0] < best < x[-1]:
    kind, why = identify.EdgeMinimum, 'the minimum is at or beyond the edge'
  return Budget(c, x, y, rows, best, loss, why, kind)


def _minimum(x: np.ndarray, y: np.ndarray, method: str):
  if method == 'parabola':
    return _vertex(x, y, np.ones(len(x)))
  return _akima(x, np.log(y))


def _vertex(x: np.ndarray, y: np.ndarray, w: np.ndarray):
  """Vertex and value of the weighted parabola; nan when it opens down."""
  best, loss = _vertices(x, y, w[None])
  return float(best[0]), float(loss[0])


def _vertices(x: np.ndarray, y: np.ndarray, w: np.ndarray):
  """The same for many weightings [b, m] -> [b], [b]."""
  centre = x.mean()
  z = np.stack([np.ones_like(x), x - centre, (x - centre) ** 2], axis=1)
  normal = np.einsum('bm,mi,mj->bij', w, z, z)
  right = np.einsum('bm,mi,m->bi', w, z, y)
  # Resamples with fewer than three sizes have no parabola.
  ok = np.linalg.cond(normal) < 1e13
  normal[~ok] = np.eye(3)
  p = np.linalg.solve(normal, right[..., None])[..., 0]
  ok &= p[:, 2] > 0
  bend = np.where(ok, p[:, 2], 1.0)
  shift = np.where(ok, -p[:, 1] / (2 * bend), np.nan)
  return centre + shift, p[:, 0] - p[:, 1] ** 2 / (4 * bend)


def _akima(x: np.ndarray, log_y: np.ndarray) -> tuple[float, float]:
  """The minimum of the interpolated log loss; runs of one size averaged."""
  sizes = np.unique(np.round(x, 9))
  mean = np.array([log_y[np.abs(x - s) < 1e-8].mean() for s in sizes])
  curve = interpolate.Akima1DInterpolator(sizes, mean)
  grid = np.linspace(sizes[0], sizes[-1], 2001)
  values = curve(grid)
  i = int(np.argmin(values))
  return float(grid[i]), float(np.exp(values[i]))


def resampled_lines(
  valid: list[Budget], method: str, replicates: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Exponents and log intercepts of runs resampled within budgets, [b].

  Args:
    valid: budgets with a minimum.
    method: 'parabola' or 'akima'.
    replicates: how many to draw; b is what of them has a line.
    seed: of the draws.
  """
  if replicates <= 0:
    return np.zeros(0), np.zeros(0)
  rng = np.random.default_rng(seed)
  found = np.full((replicates, len(valid)), np.nan)
  for j, budget in enumerate(valid):
    found[:, j] = resampled_minima(budget, method, replicates, rng)
  c = np.log([b.c for b in valid])
  slopes, cuts = [], []
  for row in found:
    keep = np.isfinite(row)
    if keep.sum() >= 3 or (keep.sum() == 2 and len(valid) == 2):
      slope, cut = line(np.exp(c[keep]), np.exp(row[keep]))
      slopes.append(slope)
      cuts.append(cut)
  return np.array(slopes), np.array(cuts)


def resampled_minima(
  budget: Budget, method: str, replicates: int, rng: np.random.Generator
) -> np.ndarray:
  """Log sizes of the minima of resampled runs, [b]; nan where invalid.

  Args:
    budget: its runs are drawn with replacement.
    method: 'parabola' or 'akima'.
    replicates: b.
    rng: of the draws.
  """
  m = len(budget.x)
  weights = rng.multinomial(m, np.full(m, 1 / m), size=replicates)
  if method == 'parabola':
    best, _ = _vertices(budget.x, budget.y, weights.astype(float))
  else:
    best = np.array([_akima_resample(budget, w) for w in weights])
  # A resample is judged as the data are: its own range must bracket the
  # minimum.
  drawn = np.where(weights > 0, budget.x[None], np.nan)
  inside = (best > np.nanmin(drawn, 1)) & (best < np.nanmax(drawn, 1))
  return np.where(inside, best, np.nan)


def _akima_resample(budget: Budget, weights: np.ndarray) -> float:
  keep = weights > 0
  if identify.count_levels(budget.x[keep], 1e-6) < 5:
    return np.nan
  return _akima(budget.x[keep], np.log(budget.y[keep]))[0]


def _refuse(budgets, valid, gate: identify.Gate) -> None:
  kinds = [b.kind for b in budgets if b.kind is not None]
  kind = max(kinds, key=kinds.count) if kinds else identify.TooFewPoints
  refused = [b for b in budgets if b.why is not None]
  reasons = '; '.join(f'C = {b.c:.3g}: {b.why}' for b in refused[:3])
  if len(refused) > 3:
    reasons += f'; and {len(refused) - 3} more'
  gate.refuse(
    kind(
      f'{len(valid)} of {len(budgets)} budgets have a valid minimum: 3 are '
      'needed, with half of the runs in them '
      f'({reasons or "too few budgets"})',
      'run five or more sizes per budget that bracket the minimum',
    )
  )

"""Would this analysis have predicted its own largest runs?

Leave-largest-out: the largest size (or budget) is dropped, the form fitted
to the rest, and the dropped runs predicted with an interval; then the two
largest, and so on while enough runs are left. Alabdulmohsin 2022 makes the
extrapolation error the score of a scaling law.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from varjax import errors
from varjax.scaling import bootstrap, fit, isoflop, predict
from varjax.scaling.forms import Form
from varjax.scaling.objective import Objective


def leave_largest_out(
  form: Form,
  frame: pd.DataFrame,
  key_of: Mapping[str, str],
  objective: Objective,
  *,
  by: str = 'n',
  most: int = 3,
  starts: int = 60,
  replicates: int = 300,
  seed: int = 0,
  y_kind: str = 'loss',
) -> dict | None:
  """Predicts the largest levels of `by` from the smaller ones.

  Args:
    form, objective: what is fitted.
    frame: the fitted runs, with n, d, c, y.
    key_of: {form input: column of frame}.
    by: column whose largest levels are left out: n (size) or c (budget).
    most: levels that are left out, at most, one at a time from the top.
    starts, replicates, seed: of each fit.
    y_kind: 'rate' keeps predictions at most 1.

  Returns:
    {kind, rows, mean_abs_error, coverage, extrapolation}; None when too few
    runs are left for even one round. `rows` holds one prediction per run and
    round, as the schema's `holdout`, with `dropped`, the levels left out.
  """
  frame = frame[np.isfinite(frame[by]) & (frame[by] > 0)]
  if frame.empty:
    return None
  level = _levels(frame[by].to_numpy(float))
  rows = []
  for dropped in range(1, most + 1):
    cut = level.max() - dropped
    train, test = frame[level <= cut], frame[level == cut + 1]
    if cut < 1:
      break
    columns = {k: train[v].to_numpy(float) for k, v in key_of.items()}
    try:
      part = fit.fit(
        form, columns, train['y'].to_numpy(float), objective,
        starts=starts, seed=seed,
      )  # fmt: skip
    except errors.FitRefused:
      break
    runs = None
    if 'run_id' in train and train['run_id'].duplicated().any():
      runs = train['run_id'].astype(str).to_numpy()
    boot = bootstrap.bootstrap(part, replicates, seed=seed, clusters=runs)
    found = predict.predict_rows(part, boot, test, key_of, y_kind)
    rows += [{**row, 'dropped': dropped} for row in found]
  return _summary(f'leave largest {by} out', rows)


def leave_largest_budget_out(
  found: isoflop.IsoFlop, most: int = 3, replicates: int = 400
) -> dict[str, Any] | None:
  """Would the smaller budgets have found the minima of the larger ones?

  Args:
    found: the analysis; its valid budgets are dropped from the top.
    most: budgets that are left out, at most.
    replicates: resamples of the runs within each budget, for intervals.

  Returns:
    As `backtest.leave_largest_out`, with sizes instead of losses; an
    interval holds the line and the scatter of the measured minimum. None
    with fewer than three budgets left.
  """
  ordered = sorted(found.valid, key=lambda b: b.c)
  rows = []
  for dropped in range(1, most + 1):
    kept, test = ordered[:-dropped], ordered[-dropped]
    if len(kept) < 3:
      break
    exponent, log_g = isoflop.line(
      [b.c for b in kept], [np.exp(b.best) for b in kept]
    )
    at = np.log(test.c)
    predicted = log_g + exponent * at
    slopes, cuts = isoflop.resampled_lines(
      kept, found.method, replicates, found.seed
    )
    own = isoflop.resampled_minima(
      test, found.method, replicates, np.random.default_rng([found.seed, 1])
    )
    own = own[np.isfinite(own)]
    lo = hi = np.nan
    if min(len(slopes), len(own)) >= 20:
      many = min(len(slopes), len(own))
      spread = cuts[:many] + slopes[:many] * at + own[:many] - test.best
      lo, hi = np.exp(np.quantile(spread, [0.025, 0.975], method='weibull'))
    measured, guess = float(np.exp(test.best)), float(np.exp(predicted))
    known = bool(np.isfinite(lo))
    rows.append(
      {
        'run_id': None, 'name': f'C = {test.c:.3g}',
        'n': measured if found.size == 'n' else None,
        'd': measured if found.size == 'd' else None,
        'c': test.c, 'x': test.c, 'measured': measured, 'predicted': guess,
        'lo': float(lo), 'hi': float(hi),
        'inside': bool(lo <= measured <= hi) if known else None,
        'error': guess / measured - 1.0,
        'extrapolation': test.c / kept[-1].c, 'dropped': dropped,
      }
    )  # fmt: skip
  return _summary('leave largest budget out', rows)


def _summary(kind: str, rows: list[dict]) -> dict | None:
  if not rows:
    return None
  inside = [r['inside'] for r in rows if r['inside'] is not None]
  return {
    'kind': kind, 'rows': rows,
    'mean_abs_error': float(np.mean([abs(r['error']) for r in rows])),
    'coverage': float(np.mean(inside)) if inside else None,
    'extrapolation': max(r['extrapolation'] for r in rows),
  }  # fmt: skip


def _levels(values: np.ndarray, apart: float = 0.02) -> np.ndarray:
  """Rank of each value's level; values within 2 % share one.

  More than a dozen levels are no ladder: then a level is a quarter of a
  decade, counted from the largest value so that units do not matter.
  """
  logs = np.log(values)
  order = np.argsort(logs, kind='stable')
  rank = np.zeros(len(values), int)
  rank[order] = np.concatenate([[0], np.cumsum(np.diff(logs[order]) > apart)])
  if rank.max() < 12:
    return rank
  below = np.floor((logs.max() - logs) / (np.log(10.0) / 4) + 1e-9)
  _, rank = np.unique(-below, return_inverse=True)
  return rank

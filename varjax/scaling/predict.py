"""Predictions for runs that were not fitted, with intervals for a new run.

An interval of the fitted curve says where the mean lies; a new run also
scatters around it. Measured runs are judged against the second.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from varjax.scaling import bootstrap
from varjax.scaling.bootstrap import Bootstrap
from varjax.scaling.fit import Fit


def predict_rows(
  fit: Fit,
  boot: Bootstrap | None,
  frame: pd.DataFrame,
  key_of: Mapping[str, str],
  y_kind: str = 'loss',
) -> list[dict]:
  """One dictionary per run, see `holdout` in docs/fit_schema.md.

  Args:
    fit, boot: the fit and its refits; without refits, no interval.
    frame: the runs, with n, d, c, y, run_id and name.
    key_of: {form input: column of frame}.
    y_kind: 'rate' keeps the interval at most 1.
  """
  columns = columns_of(frame, key_of)
  predicted = fit.predict(columns)
  lo = hi = np.full(len(frame), np.nan)
  if boot is not None and len(boot.theta) >= 20:
    lo, hi = bootstrap.band(boot, columns, noise=True)
    if y_kind == 'rate':
      hi = np.minimum(hi, 1.0)
  beyond = np.max([columns[k] / fit.columns[k].max() for k in key_of], axis=0)
  rows = []
  for i, row in enumerate(frame.to_dict('records')):
    inside = bool(lo[i] <= row['y'] <= hi[i]) if np.isfinite(lo[i]) else None
    rows.append(
      {
        **identity(row, columns, i), 'measured': float(row['y']),
        'predicted': float(predicted[i]),
        'lo': float(lo[i]), 'hi': float(hi[i]), 'inside': inside,
        'error': float(predicted[i] / row['y'] - 1.0),
        'extrapolation': float(beyond[i]),
      }
    )  # fmt: skip
  return rows


def columns_of(
  frame: pd.DataFrame, key_of: Mapping[str, str]
) -> dict[str, np.ndarray]:
  """The inputs of a form, from the columns of a table."""
  return {k: frame[v].to_numpy(float) for k, v in key_of.items()}


def identity(row: dict, columns: Mapping[str, np.ndarray], i: int) -> dict:
  """Who and where a run is; x is null for a surface."""
  first = next(iter(columns))
  return {
    'run_id': row.get('run_id'), 'name': row.get('name'),
    'n': row.get('n'), 'd': row.get('d'), 'c': row.get('c'),
    'x': float(columns[first][i]) if len(columns) == 1 else None,
  }  # fmt: skip


def curve(
  fit: Fit, boot: Bootstrap | None, top: float, y_kind: str = 'loss'
) -> dict[str, list[float]]:
  """A 1-D fit sampled from half the smallest x to twice `top`.

  Returns:
    {x, y, lo, hi}, 64 values each; the 95 % band of the curve itself.
  """
  x = fit.columns['x']
  grid = np.geomspace(x.min() / 2, max(x.max(), top) * 2, 64)
  y = fit.predict({'x': grid})
  lo = hi = np.full(len(grid), np.nan)
  if boot is not None and len(boot.theta) >= 20:
    lo, hi = bootstrap.band(boot, {'x': grid}, noise=False)
  if y_kind == 'rate':
    y, lo, hi = (np.minimum(v, 1.0) for v in (y, lo, hi))
  return {
    'x': grid.tolist(), 'y': y.tolist(), 'lo': lo.tolist(), 'hi': hi.tolist(),
  }  # fmt: skip

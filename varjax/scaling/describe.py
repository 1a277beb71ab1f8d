"""A fit as the dictionary of the result file (docs/fit_schema.md).

Between the fits and the report: everything a plot or a plan needs is in
here, so that nothing is fitted twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import platform
from typing import Any

import numpy as np
import pandas as pd
import scipy

import varjax
from varjax.scaling import optimum, predict, result
from varjax.scaling.bootstrap import Bootstrap
from varjax.scaling.fit import Fit

UNITS = {
  'n': ('N', 'parameters'), 'd': ('D', 'tokens'), 'c': ('C', 'FLOP'),
  'u': ('U', 'unique tokens'), 'x': ('x', ''),
}  # fmt: skip


def versions() -> dict[str, str]:
  """What computed the result."""
  return {
    'varjax': getattr(varjax, '__version__', 'unknown'),
    'numpy': np.__version__, 'scipy': scipy.__version__,
    'pandas': pd.__version__, 'python': platform.python_version(),
  }  # fmt: skip


def derived(fit: Fit, params: dict | None = None, x=None, y=None) -> dict:
  """Quantities that follow from the parameters.

  Args:
    fit: of a surface, its exponents a, b and so on; of a power law, the
      exponent and k of (k x)^exponent.
    params: floats, or arrays [b] of refits; the fit's own by default.
    x, y: points [n], for the correlation of a power law.

  Returns:
    Floats, or arrays [b]; {} of other forms.
  """
  values: dict = fit.params if params is None else params
  if {'A', 'B', 'alpha', 'beta'} <= set(values):
    return {
      k: v if np.ndim(v) else float(v)
      for k, v in optimum.exponents(values).items()
    }
  if set(values) >= {'A', 'alpha'}:
    with np.errstate(all='ignore'):
      k = np.asarray(values['A']) ** (-1.0 / np.asarray(values['alpha']))
    out = {'exponent': -np.asarray(values['alpha']), 'k': k}
    if params is None:
      out = {name: float(v) for name, v in out.items()}
      if x is not None and y is not None and len(x) > 2:
        left = np.asarray(y) - fit.params.get('E', 0.0)
        if (left > 0).all() and np.ptp(left) > 0 and np.ptp(x) > 0:
          pair = np.corrcoef(np.log(x), np.log(left))
          out['pearson_r'] = float(pair[0, 1])
    return out
  return {}


def intervals(fit: Fit, boot: Bootstrap | None) -> dict[str, dict]:
  """Bootstrap intervals of parameters and derived quantities."""
  if boot is None or not len(boot.theta):
    return {}
  draws = boot.params
  best = {**fit.params, **derived(fit)}
  out = {}
  for name, values in {**draws, **derived(fit, draws)}.items():
    if name in fit.form.pinned or np.ptp(values) == 0:
      continue
    found = boot.interval(values, best[name])
    if found:
      out[name] = found
  return out


def describe(
  fit: Fit,
  boot: Bootstrap | None,
  *,
  name: str,
  y_name: str = 'loss',
  y_unit: str = 'nats per token',
  y_kind: str = 'loss',
  frame: pd.DataFrame | None = None,
  used: np.ndarray | None = None,
  why: list[str | None] | None = None,
  conventions: dict[str, str | None] | None = None,
  backtests: Sequence[dict] = (),
  x_key: str | None = None,
) -> dict[str, Any]:
  """One fit as the schema's dictionary.

  Args:
    fit, boot: the fit and its refits.
    name: key of the fit in the analysis.
    y_name, y_unit, y_kind: of the fitted quantity; kind loss or rate.
    frame: all runs considered, with n, d, c, y, run_id, name.
    used: mask of the rows that were fitted; the others are predicted.
    why: per row, why it was not used.
    conventions: n_convention, d_convention, flop_convention.
    backtests: see backtest.py; the first stands for all.
    x_key: n, d or c for a 1-D form.

  Returns:
    See docs/fit_schema.md.
  """
  one = len(fit.form.inputs) == 1 and fit.form.inputs[0] == 'x'
  key_of = {'x': x_key or 'x'} if one else {k: k for k in fit.form.inputs}
  points, holdout = [], []
  if frame is not None and used is not None:
    reasons = why or [None] * len(frame)
    points = _points(fit, frame, used, reasons, key_of)
    holdout = _holdout(fit, boot, frame, reasons, key_of, y_kind)
  x = fit.columns['x'] if one else None
  out = {
    'schema': result.SCHEMA, 'kind': 'varjax.fit', 'name': name,
    'form': fit.form.name, 'formula': fit.form.formula, 'method': fit.method,
    'params': fit.params, 'pinned': dict(fit.form.pinned),
    'derived': derived(fit, x=x, y=fit.y),
    'objective': fit.value, 'objective_kind': fit.objective.text,
    'delta': fit.objective.delta if fit.objective.kind == 'huber' else None,
    'starts': fit.starts, 'starts_agreeing': fit.agreeing,
    'starts_agreeing_fraction': fit.agreeing / max(fit.starts, 1),
    'intervals': intervals(fit, boot), 'bootstrap': _bootstrap(boot),
    'sigma_log': fit.sigma_log, 'rmse_log': fit.rmse_log, 'r2': fit.r2,
    'condition': fit.condition[0], 'rank': fit.condition[1],
    'inputs': _inputs(fit, key_of),
    'x': {
      'name': UNITS[key_of['x']][0], 'unit': UNITS[key_of['x']][1]
    } if one else None,
    'y': {'name': y_name, 'unit': y_unit, 'kind': y_kind},
    'n_convention': None, 'd_convention': None, 'flop_convention': None,
    **(conventions or {}),
    'points': points,
    'curve': predict.curve(
      fit, boot, max([0.0, *(row['x'] for row in holdout)]), y_kind
    ) if one else None,
    'holdout': holdout, 'backtest': next(iter(backtests), None),
    'backtests': list(backtests),
    'refusals': [r.as_dict() for r in fit.refusals],
    'warnings': _warnings(fit, boot, holdout),
    'seed': fit.seed, 'versions': versions(), 'drop': 0, 'filter': None,
  }  # fmt: skip
  return out


def _inputs(fit: Fit, key_of: Mapping[str, str]) -> dict[str, dict]:
  """What the form was fitted to, and over which range."""
  return {
    key_of[k]: {
      'name': UNITS[key_of[k]][0], 'unit': UNITS[key_of[k]][1],
      'min': float(v.min()), 'max': float(v.max()),
    }
    for k, v in fit.columns.items()
  }  # fmt: skip


def _warnings(
  fit: Fit, boot: Bootstrap | None, holdout: list[dict]
) -> list[str]:
  """Those of the fit, then of its predictions and of its refits."""
  warnings = list(fit.warnings)
  for row in holdout:
    if row['extrapolation'] > 30:
      warnings.append(
        f'run {row["name"]} lies {row["extrapolation"]:.0f} times beyond the '
        'largest fitted size: treat its prediction as a guess'
      )
  if boot is not None and boot.failed:
    warnings.append(
      f'{boot.failed} of {boot.failed + len(boot.theta)} bootstrap refits did '
      'not converge and were left out'
    )
  return warnings


def _points(fit: Fit, frame, used, why, key_of) -> list[dict]:
  columns = predict.columns_of(frame, key_of)
  with np.errstate(all='ignore'):
    log = fit.log_predict(columns)
    residual = np.log(frame['y'].to_numpy(float)) - log
  rows = []
  for i, row in enumerate(frame.to_dict('records')):
    rows.append(
      {
        **predict.identity(row, columns, i), 'y': row['y'],
        'predicted': float(np.exp(log[i])),
        'residual': float(residual[i]), 'used': bool(used[i]),
        'why': why[i],
      }
    )  # fmt: skip
  return rows


def _holdout(fit, boot, frame, why, key_of, y_kind) -> list[dict]:
  rows = [i for i, reason in enumerate(why) if reason == 'holdout']
  if not rows:
    return []
  return predict.predict_rows(fit, boot, frame.iloc[rows], key_of, y_kind)


def _bootstrap(boot: Bootstrap | None) -> dict | None:
  if boot is None:
    return None
  # A plan resamples surfaces; of other fits a sample of the draws will do.
  most = 1000 if len(boot.fit.form.inputs) > 1 else 200
  return {
    'kind': boot.kind, 'replicates': len(boot.theta) + boot.failed,
    'failed': boot.failed, 'seed': boot.seed, 'backend': boot.backend,
    'tail': boot.tail(),
    'draws': {
      k: [float(f'{x:.9g}') for x in np.broadcast_to(v, len(boot.theta))[:most]]
      for k, v in boot.params.items()
    },
  }  # fmt: skip

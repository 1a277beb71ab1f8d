"""IsoFLOP minima as an entry of the result file (docs/fit_schema.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from varjax.scaling import backtest, bootstrap, result
from varjax.scaling.describe import versions
from varjax.scaling.isoflop import IsoFlop
from varjax.scaling.options import Options
from varjax.scaling.study import conventions_of, filter_text

_WORDS = {'n': ('N*', 'parameters', 'a'), 'd': ('D*', 'tokens', 'b')}


def entry(
  found: IsoFlop, frame: pd.DataFrame, options: Options, y_name: str
) -> dict[str, Any]:
  """The power law of the minima, in the schema of a fit.

  Args:
    found: the analysis; its valid budgets are the points.
    frame: the runs, for the names.
    options: of the analysis.
    y_name: the loss column.
  """
  symbol, unit, exponent = _WORDS[found.size]
  c = np.array([b.c for b in found.valid])
  best = np.exp([b.best for b in found.valid])
  predicted = found.predict(c)
  residual = np.log(best) - np.log(predicted)
  scale = float(np.exp(found.log_g))
  bounds = None
  if len(found.draws) >= 20:
    bounds = bootstrap.interval(
      found.draws, 'bootstrap (runs of a budget), percentile'
    )
  grid = np.geomspace(c.min() / 2, c.max() * 2, 64)
  lo = hi = np.full(64, np.nan)
  if len(found.draws) >= 20:
    lines = found.draws_g[:, None] + found.draws[:, None] * np.log(grid)[None]
    lo, hi = np.exp(np.percentile(lines, [2.5, 97.5], axis=0))
  tested = None
  if options.backtest:
    tested = backtest.leave_largest_budget_out(
      found, replicates=min(options.bootstrap, 400)
    )
  refused = [b for b in found.budgets if b.why is not None]
  dof = max(len(c) - 2, 1)
  total = float(np.sum((np.log(best) - np.log(best).mean()) ** 2))
  return {
    'schema': result.SCHEMA, 'kind': 'varjax.fit',
    'name': f'{symbol}(C) isoFLOP', 'form': 'isoflop',
    'formula': f'{symbol} = G C^{exponent}',
    'method': f'isoflop_{found.method}',
    'params': {'G': scale, exponent: found.exponent}, 'pinned': {},
    'derived': {}, 'objective': float(np.sum(residual**2)),
    'objective_kind': 'sum of squared log residuals of the minima',
    'delta': None, 'starts': 1, 'starts_agreeing': 1,
    'starts_agreeing_fraction': 1.0,
    'intervals': {exponent: bounds} if bounds else {},
    'bootstrap': {
      'kind': 'runs of a budget', 'replicates': len(found.draws),
      'failed': 0, 'seed': found.seed,
      'draws': {exponent: found.draws, 'G': np.exp(found.draws_g)},
    } if len(found.draws) else None,
    'sigma_log': float(np.sqrt(np.sum(residual**2) / dof)),
    'rmse_log': float(np.sqrt(np.mean(residual**2))),
    'r2': 1.0 - float(np.sum(residual**2)) / max(total, 1e-300),
    'condition': None, 'rank': 2,
    'inputs': {
      'c': {'name': 'C', 'unit': 'FLOP', 'min': c.min(), 'max': c.max()}
    },
    'x': {'name': 'C', 'unit': 'FLOP'},
    'y': {'name': f'{symbol} of {y_name}', 'unit': unit, 'kind': 'size'},
    **conventions_of(options),
    'points': [
      {
        'run_id': None, 'name': f'C = {b.c:.3g}',
        'n': best[i] if found.size == 'n' else None,
        'd': best[i] if found.size == 'd' else None,
        'c': b.c, 'x': b.c, 'y': best[i], 'predicted': predicted[i],
        'residual': residual[i], 'used': True, 'why': None,
      }
      for i, b in enumerate(found.valid)
    ],
    'curve': {
      'x': grid, 'y': found.predict(grid), 'lo': lo, 'hi': hi,
    },
    'holdout': [], 'backtest': tested, 'backtests': [tested] if tested else [],
    'refusals': [r.as_dict() for r in found.refusals],
    'warnings': [
      f'budget C = {b.c:.3g} is not used: {b.why}' for b in refused
    ],
    'seed': found.seed, 'versions': versions(),
    'drop': options.drop_highest, 'filter': filter_text(options),
    'runs_fitted': int(sum(len(b.x) for b in found.valid)),
    'runs_given': len(frame),
  }  # fmt: skip


def budgets(
  found: IsoFlop, bias: dict[str, float] | None, k: float
) -> dict[str, Any]:
  """`isoflop` of the result file: every budget, with its curve's points."""
  rows = []
  for budget in found.budgets:
    known = budget.why is None
    size = float(np.exp(budget.best)) if known else None
    other = budget.c / (k * size) if size else None
    n, d = (size, other) if found.size == 'n' else (other, size)
    sizes = np.exp(budget.x)
    rows.append(
      {
        'c': budget.c, 'n_opt': n, 'd_opt': d,
        'loss_opt': budget.loss if known else None,
        'status': 'used' if known else 'refused', 'why': budget.why,
        'n': sizes if found.size == 'n' else budget.c / (k * sizes),
        'loss': budget.y,
      }
    )  # fmt: skip
  return {
    'method': found.method, 'size': found.size, 'budgets': rows,
    'asymmetry': bias,
  }  # fmt: skip

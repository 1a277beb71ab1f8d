"""Tables of a report about the fits, as plain values.

Numbers stay unrounded; the templates format them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from varjax.scaling import (
  comparison,
  fit_view,
  notation,
  optimum,
  reference,
)

EXPONENTS = ('alpha', 'beta', 'gamma', 'eta', 'exponent')


def fit_row(fit: Mapping[str, Any]) -> dict[str, Any]:
  """One line of the table of fits."""
  intervals = fit.get('intervals') or {}
  residuals = [
    r['residual'] for r in fit_view.residual_rows(fit) if r['role'] == 'fit'
  ]
  return {
    'title': fit_view.title_of(fit),
    'formula': fit.get('formula'),
    'form': fit.get('form'),
    'x': against(fit),
    'y': fit_view.axis_labels(fit)[1],
    'params': [
      {
        'name': notation.symbol(str(name)),
        'value': value,
        'interval': intervals.get(name),
        'level': level_text(intervals.get(name)),
      }
      for name, value in (fit.get('params') or {}).items()
      if not isinstance(value, Mapping)
    ],
    'points': sum(bool(p.get('used', True)) for p in fit.get('points') or []),
    'objective': fit.get('objective'),
    'objective_kind': fit.get('objective_kind'),
    'starts': _starts(fit),
    'worst': max(map(abs, residuals), default=None),
    'refused': bool(fit.get('refusals')),
  }


def against(fit: Mapping[str, Any]) -> str:
  """Labels of all inputs."""
  first, _ = fit_view.axis_labels(fit)
  if fit.get('x') is None and 'd' in (fit.get('inputs') or {}):
    return f'{first} and {notation.label("d", fit.get("d_convention"))}'
  return first


def holdout_rows(
  fit: Mapping[str, Any], rows: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
  """Predicted beside measured for every held-out run of one fit.

  Args:
    fit: a fit of fit.json.
    rows: its backtest's rows; by default its `holdout`.

  Returns:
    One mapping a run; `error` is predicted over measured minus one.
  """
  result = []
  for held in rows if rows is not None else fit.get('holdout') or []:
    measured, predicted = held.get('measured'), held.get('predicted')
    error = held.get('error')
    if error is None and measured and notation.is_number(predicted):
      error = predicted / measured - 1
    lo, hi = notation.ends(held)
    result.append(
      {
        'fit': fit_view.title_of(fit),
        'name': str(held.get('name') or held.get('run_id') or 'run'),
        'x': held.get('x') if held.get('x') is not None else held.get('n'),
        'measured': measured,
        'predicted': predicted,
        'interval': {'lo': lo, 'hi': hi},
        'inside': held.get('inside'),
        'error': error,
        'extrapolation': held.get('extrapolation'),
      }
    )
  return result


def backtests_of(fit: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """All backtests of a fit; results of older versions hold one."""
  return fit.get('backtests') or [b for b in [fit.get('backtest')] if b]


def sensitivity_rows(fits: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Refits under other choices, of the fits that the page dwells on."""
  rows = []
  for fit in _leading(fits):
    for row in fit.get('sensitivity') or []:
      params = row.get('params') or {}
      rows.append(
        {
          'fit': fit_view.title_of(fit),
          'choice': row.get('choice'),
          'exponents': ', '.join(
            f'{notation.symbol(k)} = {notation.number(params[k])}'
            for k in EXPONENTS
            if k in params
          ),
          'a': row.get('a'),
          'prediction': row.get('prediction'),
          'refused': row.get('refused'),
        }
      )
  return rows


def _leading(fits: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The primary fit, and those with several inputs."""
  return [f for f in fits if f is fits[0] or len(f.get('inputs') or {}) > 1]


def profile_rows(fits: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Profile-likelihood intervals; an end that the data leave open is None."""
  return [
    {
      'fit': fit_view.title_of(fit),
      'name': notation.symbol(name),
      'lo': found.get('lo'),
      'hi': found.get('hi'),
      'level': level_text(found),
    }
    for fit in _leading(fits)
    for name, found in (fit.get('profiles') or {}).items()
  ]


def published_rows(
  fits: list[dict[str, Any]], runs: pd.DataFrame | None = None
) -> list[dict[str, Any]]:
  """Published laws in the inputs that were fitted, with citations.

  `compared` says how far each can be compared with one of the fits, and
  what stands against more.
  """
  inputs = {','.join(f.get('inputs') or {}) for f in fits}
  best = _best_comparisons(fits, runs)
  optimal = [
    f['derived']['a'] for f in fits if 'a' in (f.get('derived') or {})
  ]  # fmt: skip
  rows = []
  for law in reference.laws().values():
    sized = law.metric == 'N_opt' and optimal
    if law.x not in inputs and not sized:
      continue
    found = best.get(law.id)
    reason = found.reason if found else f'no fit of {law.metric} here'
    how = found.how if found else comparison.REFUSED
    if sized:
      reason = f'exponent a of N* is {optimal[0]:.3f} here'
      how = comparison.SLOPE
      if law.domain not in comparison.COMPARABLE:
        how = comparison.REFUSED
        reason = f'its tokens are {law.domain}; {reason}'
    if law.form == 'chinchilla':
      split = optimum.exponents(law.params)
      reason = f'its tokens are {law.domain}; a = {float(split["a"]):.3f}'
    rows.append(
      {
        'quantity': law.quantity,
        'x': ' and '.join(notation.label(k) for k in law.x.split(',')),
        'counts': law.counts,
        'exponent': law.params.get('exponent'),
        'floor': law.params.get('E', law.fixed_floor),
        'source': law.source,
        'certainty': law.certainty,
        'compared': f'{how}: {reason}' if reason else how,
        'notes': law.notes,
      }
    )
  return rows


def _best_comparisons(
  fits: list[dict[str, Any]], runs: pd.DataFrame | None
) -> dict[str, comparison.Comparison]:
  """Per law, the comparison that says most."""
  order = (comparison.ABSOLUTE, comparison.SLOPE, comparison.REFUSED)
  best: dict[str, comparison.Comparison] = {}
  for found in (c for f in fits for c in comparison.compare(f, runs)):
    known = best.get(found.law.id)
    if known is None or order.index(found.how) < order.index(known.how):
      best[found.law.id] = found
  return best


def exponent_text(fit: Mapping[str, Any], name: str) -> str:
  """`α = 0.21 (95 % interval [0.18, 0.25])`."""
  text = f'{notation.symbol(name)} = {notation.number(fit["params"][name], 3)}'
  bounds = (fit.get('intervals') or {}).get(name)
  if not bounds:
    return f'{text} (no interval)'
  level = level_text(bounds)
  return f'{text} ({level} interval {notation.interval(bounds)})'.replace(
    '( ', '('
  )


def level_text(bounds: Any) -> str:
  """`95 %`, or nothing where the level is not recorded."""
  level = bounds.get('level') if isinstance(bounds, Mapping) else None
  return f'{100 * float(level):g} %' if notation.is_number(level) else ''


def _starts(fit: Mapping[str, Any]) -> str:
  agreeing, total = fit.get('starts_agreeing'), fit.get('starts')
  if agreeing is None:
    return notation.MISSING
  return f'{agreeing} of {total}' if total else str(agreeing)

"""Figures of the fitted laws: curves, surface, isoFLOP, residuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import re
from typing import Any

import numpy as np
import pandas as pd

from varjax.scaling import comparison, notation, optimum, plots, sweepdir
from varjax.scaling.exhibit import Exhibit, stem
from varjax.scaling.fit_tables import backtests_of
from varjax.scaling.fit_view import (
  axis_labels,
  fits_of,
  ids,
  residual_rows,
  title_of,
)

_MOST_ROWS = 24  # of the figure of backtests
_MEAN_LOSS = ('val_loss_nats_per_token', 'L_mean')


def build(sweep: sweepdir.SweepDir, references: bool = True) -> list[Exhibit]:
  """The figures that fit.json supports; `references`: published slopes too."""
  every = fits_of(sweep.fit)
  fits = [_with_sem(f, sweep.runs) for f in every if _scale_of(f) is None]
  groups = _groups(fits)
  makers: list[Callable[[], Exhibit | None]] = [
    *(
      lambda g=g, i=i: _law(g, i, sweep.runs if references else None)
      for i, g in enumerate(groups)
    ),
    *(lambda f=f, i=i: _surface(f, i) for i, f in enumerate(fits)),
    lambda: _scale_exponents(every),
    lambda: _agreement(sweep.fit or {}),
    lambda: _isoflop(sweep.fit or {}),
    lambda: _residuals(groups),
    lambda: _backtest(fits),
  ]
  return [e for e in (make() for make in makers) if e is not None]


def _with_sem(fit: dict[str, Any], runs: pd.DataFrame) -> dict[str, Any]:
  """Adds each run's evaluation error to the points of a mean-loss fit."""
  y = fit.get('y')
  name = y.get('name') if isinstance(y, Mapping) else y
  if name not in _MEAN_LOSS:
    return fit
  sems = runs.set_index('run_id')['val_loss_sem'].dropna().to_dict()
  return {
    **fit,
    **{
      key: [
        {**row, 'sem': row.get('sem', sems.get(row.get('run_id')))}
        for row in fit.get(key) or []
      ]
      for key in ('points', 'holdout')
    },
  }


def _groups(fits: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
  """Fits of the same quantity against the same input, to be drawn as one."""
  groups: dict[Any, list[dict[str, Any]]] = {}
  for fit in fits:
    inputs = ','.join(sorted(fit.get('inputs') or {}))
    key = (*axis_labels(fit), inputs, fit.get('x') is None)
    groups.setdefault(key, []).append(fit)
  return list(groups.values())


def _law(
  group: list[dict[str, Any]], index: int, runs: pd.DataFrame | None
) -> Exhibit | None:
  first = group[0]
  points = [
    p for p in first.get('points') or []
    if notation.is_number(p.get('x')) and notation.is_number(p.get('y'))
    and p['x'] > 0 and p['y'] > 0
  ]  # fmt: skip
  if not points or not isinstance(first.get('x'), Mapping | str):
    return None
  rows = []
  for fit in group:
    name = title_of(fit)
    for p in fit.get('points') or []:
      if p.get('why') != 'holdout':
        rows.append(
          {'fit': name, 'series': 'point', **ids(p),
           **{k: p.get(k) for k in
              ('used', 'why', 'x', 'y', 'sem', 'predicted')}}
        )  # fmt: skip
    for h in fit.get('holdout') or []:
      rows.append(
        {'fit': name, 'series': 'holdout', **ids(h), 'y': h.get('measured'),
         **{k: h.get(k) for k in ('x', 'sem', 'predicted', 'lo', 'hi')}}
      )  # fmt: skip
    curve = fit.get('curve') or {}
    for i, x in enumerate(curve.get('x') or []):
      ends = {k: _at(curve, k, i) for k in ('y', 'lo', 'hi')}
      rows.append({'fit': name, 'series': 'curve', 'x': x, **ends})
  guides = []
  if runs is not None:
    guides = [c for f in group for c in comparison.drawn(f, runs)]
  rows += [
    {'fit': g.law.id, 'series': f'reference, {g.how}', 'x': x, 'y': y}
    for g in guides
    for x, y in zip(g.x, g.y, strict=True)
  ]
  used = sum(bool(p.get('used', True)) for p in points)
  held = len(first.get('holdout') or [])
  return Exhibit(
    stem('law', first, index),
    'laws',
    _common(list(map(title_of, group))),
    f'{used} points fitted, {held} held out.{comparison.caption(guides)}',
    pd.DataFrame(rows),
    plots.power_law(
      [{**f, 'label': _rest(title_of(f), group)} for f in group],
      *axis_labels(first),
      [{'label': g.label, 'x': g.x, 'y': g.y} for g in guides],
    ),
  )


def _common(names: list[str]) -> str:
  """The words that several names share at the start."""
  if len(names) == 1:
    return names[0]
  split = [n.split(' ') for n in names]
  shared = []
  for words in zip(*split, strict=False):
    if len(set(words)) > 1:
      break
    shared.append(words[0])
  return ' '.join(w for w in shared if w not in ('with', 'without')) or names[0]


def _rest(name: str, group: list[dict[str, Any]]) -> str:
  if len(group) == 1:
    return 'fit'
  return name.removeprefix(_common(list(map(title_of, group)))).strip() or name


def _surface(fit: dict[str, Any], index: int) -> Exhibit | None:
  params = fit.get('params') or {}
  names = ('E', 'A', 'B', 'alpha', 'beta')
  points = [
    p for p in fit.get('points') or []
    if p.get('used', True)
    and all(notation.is_number(p.get(k)) and p[k] > 0 for k in ('n', 'd'))
  ]  # fmt: skip
  if not points or not all(notation.is_number(params.get(k)) for k in names):
    return None
  if min(params[k] for k in names[1:]) <= 0:
    return None
  held = [h for h in fit.get('holdout') or [] if h.get('n') and h.get('d')]
  n = np.array([p['n'] for p in (*points, *held)], float)
  d = np.array([p['d'] for p in (*points, *held)], float)
  grid_n = np.geomspace(n.min() / 1.5, n.max() * 1.5, 80)
  grid_d = np.geomspace(d.min() / 1.5, d.max() * 1.5, 80)
  loss = optimum.surface(params, grid_n[None, :], grid_d[:, None])
  best_n, best_d, _ = optimum.optimum(
    params, 6 * np.geomspace(grid_n[0] * grid_d[0], grid_n[-1] * grid_d[-1], 99)
  )
  inside = (best_d >= grid_d[0]) & (best_d <= grid_d[-1])
  inside &= (best_n >= grid_n[0]) & (best_n <= grid_n[-1])
  drawn = [
    {'x': p['n'], 'y': p['d'], 'role': role}
    for rows, role in ((points, 'fit'), (held, 'holdout'))
    for p in rows
  ]
  data = pd.DataFrame(
    [
      {**ids(p), 'n': p['n'], 'd': p['d'], 'loss': p.get('y'),
       'predicted': p.get('predicted')}
      for p in points
    ]
  )  # fmt: skip
  return Exhibit(
    stem('surface', fit, index),
    'laws',
    f'Surface of {title_of(fit)}',
    'Contours of the fitted loss over the runs. The dashed line is where '
    'size and data are balanced, for compute proportional to N·D.',
    data,
    plots.surface(
      {'x': grid_n, 'y': grid_d, 'z': loss},
      drawn,
      {'x': best_n[inside], 'y': best_d[inside]},
      notation.label('n', fit.get('n_convention')),
      notation.label('d', fit.get('d_convention')),
    ),
  )


def _isoflop(fit: Mapping[str, Any]) -> Exhibit | None:
  budgets = [
    {
      'name': notation.scientific(b.get('c')),
      'x': b['n'],
      'y': b['loss'],
      'minimum': {'x': b.get('n_opt'), 'y': b.get('loss_opt')},
      'status': b.get('status'),
      'why': b.get('why'),
    }
    for b in (fit.get('isoflop') or {}).get('budgets') or []
    if b.get('n') and b.get('loss')
  ]
  if not budgets:
    return None
  rows = [
    {'budget_flops': b['name'], 'status': b['status'], 'n': x, 'loss': y}
    for b in budgets
    for x, y in zip(b['x'], b['y'], strict=False)
  ]
  rejected = ''.join(
    f' Budget {b["name"]} was rejected: {b["why"]}.'
    for b in budgets
    if b['why']
  )
  return Exhibit(
    'isoflop',
    'laws',
    'IsoFLOP curves',
    f'Runs of equal compute; a star is a minimum that was accepted.{rejected}',
    pd.DataFrame(rows),
    plots.isoflop(
      budgets,
      notation.label('n', fit.get('n_convention')),
      notation.label(fit.get('y')),
    ),
    wide=True,
  )


def _agreement(fit: Mapping[str, Any]) -> Exhibit | None:
  rows = [
    {'name': r.get('method'), 'value': r['a'], 'lo': r.get('lo'),
     'hi': r.get('hi'), 'note': r.get('note')}
    for r in fit.get('agreement') or []
    if notation.is_number(r.get('a'))
  ]  # fmt: skip
  if len(rows) < 2:
    return None
  spread = notation.number(fit.get('agreement_spread'), 2)
  return Exhibit(
    'agreement',
    'laws',
    'Do the methods agree?',
    'Exponent a of the compute-optimal size N*(C) ~ C^a by method, with '
    f'95 % intervals; largest difference {spread}.',
    pd.DataFrame(rows),
    plots.forest(rows, 'exponent a of N*(C)'),
  )


def _scale_of(fit: Mapping[str, Any]) -> int | None:
  """Number of the scale that a fit is about, None for all others."""
  y = fit.get('y')
  name = y.get('name') if isinstance(y, Mapping) else y
  found = re.fullmatch(r'L_scale_(\d+)', str(name))
  return int(found.group(1)) if found else None


def _scale_exponents(fits: list[dict[str, Any]]) -> Exhibit | None:
  """One figure for the fits of all scales, instead of one each."""
  rows = [
    {
      'name': f'scale {_scale_of(f)}',
      'value': f['params']['alpha'],
      **dict(
        zip(
          ('lo', 'hi'),
          notation.ends((f.get('intervals') or {}).get('alpha')),
          strict=True,
        )
      ),
    }
    for f in fits
    if _scale_of(f) is not None
    and notation.is_number((f.get('params') or {}).get('alpha'))
  ]
  if not rows:
    return None
  return Exhibit(
    'scale_exponents',
    'laws',
    'Exponent per scale',
    'Exponent α of L(N) without a floor for the codes of each scale, with '
    '95 % intervals. Coarse scales carry few codes; their loss may not '
    'fall with size at all.',
    pd.DataFrame(rows),
    plots.forest(rows, 'exponent α'),
  )


def _residuals(groups: list[list[dict[str, Any]]]) -> Exhibit | None:
  panels, tables = [], []
  for group in groups:
    rows = residual_rows(group[0])
    if rows:
      x_label, _ = axis_labels(group[0])
      title = title_of(group[0])
      panels.append({'title': title, 'x_label': x_label, 'rows': rows})
    tables += [
      pd.DataFrame(residual_rows(f)).assign(fit=title_of(f)) for f in group
    ]
  if not panels:
    return None
  data = pd.concat([t for t in tables if len(t)], ignore_index=True)
  return Exhibit(
    'residuals',
    'laws',
    'Residuals',
    'Measured over predicted, minus one. A trend along the axis means that '
    'the form is wrong, whatever its intervals say. The file has those of '
    'all fits.',
    data,
    plots.residuals(panels),
    wide=len(panels) > 1,
  )


def _backtest(fits: list[dict[str, Any]]) -> Exhibit | None:
  """What the first fit's smaller runs say of its larger ones."""
  rows = []
  for tested in [t for f in fits[:1] for t in backtests_of(f)]:
    for row in tested.get('rows') or []:
      measured, lo, hi = row.get('measured'), row.get('lo'), row.get('hi')
      if not all(map(notation.is_number, (measured, row.get('error')))):
        continue
      both = notation.is_number(lo) and notation.is_number(hi)
      rows.append(
        {
          'kind': tested.get('kind'), 'dropped': row.get('dropped'),
          'name': f'{row.get("name") or row.get("run_id")}, '
          f'{row.get("dropped")} left out',
          'extrapolation': row.get('extrapolation'),
          'measured': measured, 'predicted': row.get('predicted'),
          'value': 100 * row['error'],
          'lo': 100 * (lo / measured - 1) if both else None,
          'hi': 100 * (hi / measured - 1) if both else None,
        }
      )  # fmt: skip
  if not rows:
    return None
  shown = rows[:_MOST_ROWS]
  left = f' The first {_MOST_ROWS} are drawn.' if len(rows) > len(shown) else ''
  return Exhibit(
    'backtest',
    'laws',
    f'Backtest of {title_of(fits[0])}',
    'Largest runs predicted from the smaller ones: predicted over measured, '
    'minus one, with the 95 % interval for a new run. The law is sound where '
    f'bars reach zero.{left}',
    pd.DataFrame(rows),
    plots.forest(shown, 'predicted over measured, minus 1 (%)', at=0.0),
  )


def _at(curve: Mapping[str, Any], key: str, i: int) -> Any:
  values = curve.get(key) or []
  return values[i] if i < len(values) else None

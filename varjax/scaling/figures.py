"""The figures of a report: what each shows, and the numbers behind it.

Between a `SweepDir` and `plots`: every figure carries its data as a table,
so that a reader can redraw it. A figure whose data is absent is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from varjax.scaling import notation, optimum, plots, sweepdir

if TYPE_CHECKING:
  from matplotlib.figure import Figure

COMPUTE, LOSS = 'flops_train_total', 'val_loss_nats_per_token'


@dataclasses.dataclass(frozen=True)
class Exhibit:
  """One figure.

  Attributes:
    name: file stem, letters, digits and underscores.
    section: 'laws', 'runs' or 'plan', where the page shows it.
    title, caption: for people.
    data: what is drawn, one row per mark.
    figure: the drawing.
    wide: takes the whole width of the page.
  """

  name: str
  section: str
  title: str
  caption: str
  data: pd.DataFrame
  figure: Figure
  wide: bool = False


def build(sweep: sweepdir.SweepDir) -> list[Exhibit]:
  """All figures that the data supports, in the order of the page."""
  every = fits_of(sweep.fit)
  fits = [_with_sem(f, sweep.runs) for f in every if _scale_of(f) is None]
  makers: list[Callable[[], Exhibit | None]] = [
    *(lambda g=g, i=i: _law(g, i) for i, g in enumerate(_groups(fits))),
    *(lambda f=f, i=i: _surface(f, i) for i, f in enumerate(fits)),
    lambda: _scale_exponents(every),
    lambda: _agreement(sweep.fit or {}),
    lambda: _isoflop(sweep.fit or {}),
    lambda: _residuals(_groups(fits)),
    lambda: _training_curves(sweep),
    lambda: _scale_losses(sweep),
    lambda: _tokenizer(sweep),
  ]
  return [e for e in (make() for make in makers) if e is not None]


def fits_of(fit: Mapping[str, Any] | None) -> list[dict[str, Any]]:
  """The fits of a fit.json, the primary one first.

  The top level is a fit itself; it is listed unless `fits` already holds
  the same name and form.
  """
  if not fit:
    return []
  listed = [f for f in fit.get('fits') or [] if isinstance(f, dict)]
  key = (fit.get('name'), fit.get('form'))
  if fit.get('params') and not any(
    (f.get('name'), f.get('form')) == key for f in listed
  ):
    primary = {k: v for k, v in fit.items() if k != 'fits'}
    listed.insert(0, primary)
  return listed


def title_of(fit: Mapping[str, Any]) -> str:
  """Name of a fit; its form where it has none."""
  return str(fit.get('name') or fit.get('form') or 'fit')


def axis_labels(fit: Mapping[str, Any]) -> tuple[str, str]:
  """Labels of the input (conventions in brackets) and of the loss."""
  x = fit.get('x')
  name = str((x or {}).get('name') if isinstance(x, Mapping) else x).lower()
  convention = {
    'n': fit.get('n_convention'),
    'd': fit.get('d_convention'),
    'c': fit.get('flop_convention'),
  }.get(name)
  if x is None and 'n' in (fit.get('inputs') or {}):
    return (
      notation.label('n', fit.get('n_convention')),
      notation.label(fit.get('y')),
    )
  return notation.label(x, convention), notation.label(fit.get('y'))


def residual_rows(fit: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Measured over predicted minus one, for every point that has both.

  The axis is x of a 1-D fit and N of a surface.
  """
  rows = [
    (p, p.get('y'), 'fit')
    for p in fit.get('points') or []
    if p.get('used', True)
  ]
  rows += [(h, h.get('measured'), 'holdout') for h in fit.get('holdout') or []]
  result = []
  for point, measured, role in rows:
    x = point.get('x') if point.get('x') is not None else point.get('n')
    predicted, sem = point.get('predicted'), point.get('sem')
    if not all(map(notation.is_number, (x, measured, predicted))):
      continue
    result.append(
      {
        **_ids(point),
        'role': role,
        'x': x,
        'measured': measured,
        'predicted': predicted,
        'residual': measured / predicted - 1,
        'sem': sem / predicted if notation.is_number(sem) else None,
      }
    )
  return result


def scale_columns(models: pd.DataFrame, column: str) -> dict[int, list[float]]:
  """Per-scale lists (JSON text) by row index; unreadable ones left out."""
  result = {}
  for index, text in models[column].items():
    try:
      values = json.loads(text) if isinstance(text, str) else None
    except json.JSONDecodeError:
      values = None
    if isinstance(values, list) and all(map(notation.is_number, values)):
      result[index] = [float(v) for v in values]
  return {i: v for i, v in result.items() if v}


def scale_names(table: pd.DataFrame, count: int) -> list[str]:
  """Grid sides from the runs' own configuration, else 1, 2, 3 ..."""
  for text in table['config_json'].dropna():
    try:
      scales = json.loads(text)['tokenizer']['scales']
    except (json.JSONDecodeError, KeyError, TypeError):
      continue
    if isinstance(scales, list) and len(scales) == count:
      return [
        str(s) if isinstance(s, int) else '×'.join(map(str, s)) for s in scales
      ]
  return [f'#{i + 1}' for i in range(count)]


def frontier(curves: pd.DataFrame) -> pd.DataFrame:
  """Points that no other point beats at less or equal compute."""
  table = curves.sort_values([COMPUTE, LOSS])
  best = table[LOSS].cummin()
  return table[(table[LOSS] <= best) & ~best.duplicated()]


def _with_sem(fit: dict[str, Any], runs: pd.DataFrame) -> dict[str, Any]:
  """Adds each run's evaluation error to the points of a mean-loss fit."""
  y = fit.get('y')
  name = y.get('name') if isinstance(y, Mapping) else y
  if name not in (LOSS, 'L_mean'):
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


def _law(group: list[dict[str, Any]], index: int) -> Exhibit | None:
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
          {'fit': name, 'series': 'point', **_ids(p),
           **{k: p.get(k) for k in
              ('used', 'why', 'x', 'y', 'sem', 'predicted')}}
        )  # fmt: skip
    for h in fit.get('holdout') or []:
      rows.append(
        {'fit': name, 'series': 'holdout', **_ids(h), 'y': h.get('measured'),
         **{k: h.get(k) for k in ('x', 'sem', 'predicted', 'lo', 'hi')}}
      )  # fmt: skip
    curve = fit.get('curve') or {}
    for i, x in enumerate(curve.get('x') or []):
      ends = {k: _at(curve, k, i) for k in ('y', 'lo', 'hi')}
      rows.append({'fit': name, 'series': 'curve', 'x': x, **ends})
  used = sum(bool(p.get('used', True)) for p in points)
  held = len(first.get('holdout') or [])
  return Exhibit(
    _stem('law', first, index),
    'laws',
    _common(list(map(title_of, group))),
    f'{used} points fitted, {held} held out.',
    pd.DataFrame(rows),
    plots.power_law(
      [{**f, 'label': _rest(title_of(f), group)} for f in group],
      *axis_labels(first),
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
  n = np.array([p['n'] for p in points], float)
  d = np.array([p['d'] for p in points], float)
  grid_n = np.geomspace(n.min() / 1.5, n.max() * 1.5, 80)
  grid_d = np.geomspace(d.min() / 1.5, d.max() * 1.5, 80)
  loss = optimum.surface(params, grid_n[None, :], grid_d[:, None])
  best_n, best_d, _ = optimum.optimum(
    params, 6 * np.geomspace(grid_n[0] * grid_d[0], grid_n[-1] * grid_d[-1], 99)
  )
  inside = (best_d >= grid_d[0]) & (best_d <= grid_d[-1])
  inside &= (best_n >= grid_n[0]) & (best_n <= grid_n[-1])
  held = [h for h in fit.get('holdout') or [] if h.get('n') and h.get('d')]
  drawn = [
    {'x': p['n'], 'y': p['d'], 'role': role}
    for rows, role in ((points, 'fit'), (held, 'holdout'))
    for p in rows
  ]
  data = pd.DataFrame(
    [
      {**_ids(p), 'n': p['n'], 'd': p['d'], 'loss': p.get('y'),
       'predicted': p.get('predicted')}
      for p in points
    ]
  )  # fmt: skip
  return Exhibit(
    _stem('surface', fit, index),
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
  return Exhibit(
    'isoflop',
    'laws',
    'IsoFLOP curves',
    'Runs of equal compute; a star is a minimum that was accepted.',
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


def _training_curves(sweep: sweepdir.SweepDir) -> Exhibit | None:
  table = sweep.curves
  table = table[(table['task'] != 'reconstruct') & (table[COMPUTE] > 0)]
  table = table[table[LOSS] > 0]
  if table.empty:
    return None
  status = sweep.runs.set_index('run_id')['status'].to_dict()
  order = table.sort_values(['params_body', 'name', 'run_id', COMPUTE])
  curves = [
    {
      'name': rows['name'].iloc[0] or run_id,
      'params': rows['params_body'].iloc[0],
      'x': rows[COMPUTE].tolist(),
      'y': rows[LOSS].tolist(),
      'failed': status.get(run_id) == 'failed',
    }
    for run_id, rows in order.groupby('run_id', sort=False)
  ]
  lower = frontier(table)
  data = order[['run_id', 'name', 'params_body', 'steps', 'images_seen',
                COMPUTE, LOSS]]  # fmt: skip
  data = data.assign(on_frontier=[i in set(lower.index) for i in data.index])
  return Exhibit(
    'training_curves',
    'runs',
    'Training curves against compute',
    'Validation loss at every evaluation. The dashed line joins the '
    'evaluations that none with less compute beats; mid-run points belong '
    'to a longer learning-rate schedule, so it is an upper bound.',
    data,
    plots.training_curves(
      curves,
      {'x': lower[COMPUTE].tolist(), 'y': lower[LOSS].tolist()},
      notation.label(COMPUTE),
      notation.label(LOSS),
    ),
    wide=True,
  )


def _scale_losses(sweep: sweepdir.SweepDir) -> Exhibit | None:
  models = sweep.models
  models = models[models['status'] == 'complete']
  losses = scale_columns(models, 'val_loss_scales')
  if not losses:
    return None
  # Sweeps over tokenizers have several schedules: show the commonest.
  lengths = [len(v) for v in losses.values()]
  length = max(set(lengths), key=lengths.count)
  kept = {i: v for i, v in losses.items() if len(v) == length}
  rows = models.loc[list(kept)]
  runs = [
    {'name': r.name_ or r.run_id, 'params': r.params_body, 'losses': kept[i]}
    for i, r in zip(
      rows.index, rows.rename(columns={'name': 'name_'}).itertuples(),
      strict=True,
    )
  ]  # fmt: skip
  names = scale_names(rows, length)
  data = pd.DataFrame(
    [
      {'name': r['name'], 'params_body': r['params'], 'scale': s, 'loss': v}
      for r in runs
      for s, v in zip(names, r['losses'], strict=True)
    ]
  )
  return Exhibit(
    'scale_losses',
    'runs',
    'Loss per scale',
    'Mean cross-entropy of the codes of each scale, over the validation split.',
    data,
    plots.scale_losses(runs, names, notation.label(LOSS)),
    wide=True,
  )


def _tokenizer(sweep: sweepdir.SweepDir) -> Exhibit | None:
  rows = sweep.tokenizers
  psnr = scale_columns(rows, 'val_psnr_scales')
  if not psnr:
    return None
  index, values = list(psnr.items())[-1]
  names = scale_names(rows.loc[[index]], len(values))
  data = pd.DataFrame({'scale': names, 'psnr_db': values})
  return Exhibit(
    'tokenizer_psnr',
    'runs',
    'Tokenizer reconstruction by scale',
    'PSNR on validation images when decoding stops after each scale.',
    data,
    plots.bars(names, values, 'PSNR (dB)'),
  )


def _stem(kind: str, fit: Mapping[str, Any], index: int) -> str:
  name = str(fit.get('name') or fit.get('form') or 'fit')
  words = re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')[:40]
  return f'{kind}_{index + 1}_{words}' if words else f'{kind}_{index + 1}'


def _ids(point: Mapping[str, Any]) -> dict[str, Any]:
  return {'run_id': point.get('run_id'), 'name': point.get('name')}


def _at(curve: Mapping[str, Any], key: str, i: int) -> Any:
  values = curve.get(key) or []
  return values[i] if i < len(values) else None

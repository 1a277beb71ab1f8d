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

from varjax.scaling import notation, plots, sweepdir

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
  fits = fits_of(sweep.fit)
  makers: list[Callable[[], Exhibit | None]] = [
    *(lambda f=f, i=i: _law(f, i) for i, f in enumerate(fits)),
    *(lambda f=f, i=i: _surface(f, i) for i, f in enumerate(fits)),
    *(lambda f=f, i=i: _isoflop(f, i) for i, f in enumerate(fits)),
    lambda: _residuals(fits),
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
  """`L(N)`-like name of a fit, with its form."""
  name = str(fit.get('name') or fit.get('form') or 'fit')
  form = str(fit.get('form') or '')
  return name if not form or form in name else f'{name} · {form}'


def predictor(
  fit: Mapping[str, Any],
) -> Callable[[float], float | None]:
  """Prediction at x from the fit's own curve, log-log between its points."""
  curve = fit.get('curve') or {}
  x = [v for v in curve.get('x') or [] if notation.is_number(v)]
  y = [v for v in curve.get('y') or [] if notation.is_number(v)]
  if len(x) < 2 or len(x) != len(y) or min(x) <= 0 or min(y) <= 0:
    return lambda _: None
  order = np.argsort(x)
  log_x, log_y = np.log(np.array(x)[order]), np.log(np.array(y)[order])

  def predict(at: float) -> float | None:
    if not log_x[0] - 1e-9 <= np.log(at) <= log_x[-1] + 1e-9:
      return None
    return float(np.exp(np.interp(np.log(at), log_x, log_y)))

  return predict


def residual_rows(fit: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Measured over predicted minus one, for every point that has both."""
  predict = predictor(fit)
  rows = []
  for point in fit.get('points') or []:
    if point.get('role') == 'holdout':
      continue
    rows.append((point, point.get('y'), point.get('predicted'), 'fit'))
  for point in fit.get('holdout') or []:
    rows.append(
      (point, point.get('measured'), point.get('predicted'), 'holdout')
    )
  result = []
  for point, measured, predicted, role in rows:
    x = point.get('x')
    if not (notation.is_number(x) and notation.is_number(measured)):
      continue
    if not notation.is_number(predicted):
      predicted = predict(x) if x > 0 else None
    if not predicted:
      continue
    sem = point.get('sem')
    result.append(
      {
        'run_id': point.get('run_id'),
        'name': point.get('name'),
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


def _law(fit: dict[str, Any], index: int) -> Exhibit | None:
  points = fit.get('points') or []
  usable = [
    p for p in points
    if notation.is_number(p.get('x')) and notation.is_number(p.get('y'))
    and p['x'] > 0 and p['y'] > 0
  ]  # fmt: skip
  if not usable:
    return None
  x_label, y_label = notation.label(fit.get('x')), notation.label(fit.get('y'))
  rows = [
    {'series': 'point', 'role': p.get('role') or 'fit', **_ids(p),
     'x': p['x'], 'y': p['y'], 'sem': p.get('sem')}
    for p in usable if p.get('role') != 'holdout'
  ]  # fmt: skip
  rows += [
    {'series': 'holdout', 'role': 'holdout', **_ids(h), 'x': h.get('x'),
     'y': h.get('measured'), 'predicted': h.get('predicted'),
     'lo': h.get('lo'), 'hi': h.get('hi')}
    for h in fit.get('holdout') or []
  ]  # fmt: skip
  curve = fit.get('curve') or {}
  for i, x in enumerate(curve.get('x') or []):
    rows.append(
      {'series': 'curve', 'x': x, **{k: _at(curve, k, i) for k in
                                     ('y', 'lo', 'hi')}}
    )  # fmt: skip
  held = len(fit.get('holdout') or [])
  caption = f'{len(usable)} runs fitted'
  if held:
    caption += (
      f'; {held} held out of the fit: squares are predictions with their '
      'interval, diamonds what was then measured'
    )
  return Exhibit(
    _stem('law', fit, index),
    'laws',
    title_of(fit),
    f'{caption}. Bars on points are the standard error over evaluation '
    'images; the band is the interval of the fitted law.',
    pd.DataFrame(rows),
    plots.power_law({**fit, 'points': usable}, x_label, y_label),
  )


def _surface(fit: dict[str, Any], index: int) -> Exhibit | None:
  params = fit.get('params') or {}
  names = ('E', 'A', 'B', 'alpha', 'beta')
  points = [
    {**p, **_two_inputs(p)} for p in fit.get('points') or [] if _two_inputs(p)
  ]
  if not points or not all(notation.is_number(params.get(k)) for k in names):
    return None
  floor, a, b, alpha, beta = (float(params[k]) for k in names)
  if min(a, b, alpha, beta) <= 0:
    return None
  n = np.array([p['n'] for p in points], float)
  d = np.array([p['d'] for p in points], float)
  grid_n = np.geomspace(n.min() / 1.5, n.max() * 1.5, 80)
  grid_d = np.geomspace(d.min() / 1.5, d.max() * 1.5, 80)
  z = floor + a * grid_n[None, :] ** -alpha + b * grid_d[:, None] ** -beta
  # dL/dN * N = dL/dD * D on the compute-optimal line, for any C = k N D.
  ridge_d = (beta * b / (alpha * a) * grid_n**alpha) ** (1 / beta)
  inside = (ridge_d >= grid_d[0]) & (ridge_d <= grid_d[-1])
  figure = plots.surface(
    {'x': grid_n, 'y': grid_d, 'z': z},
    [{'x': p['n'], 'y': p['d'], 'role': p.get('role')} for p in points],
    {'x': grid_n[inside], 'y': ridge_d[inside]},
    notation.label(fit.get('x') if _is_size(fit.get('x')) else 'params'),
    notation.label('tokens'),
  )
  data = pd.DataFrame(
    [
      {**_ids(p), 'n': p['n'], 'd': p['d'], 'loss': p.get('y'),
       'role': p.get('role')}
      for p in points
    ]
  )  # fmt: skip
  return Exhibit(
    _stem('surface', fit, index),
    'laws',
    f'Surface of {title_of(fit)}',
    'Contours of the fitted loss; the dashed line is where size and data '
    'are balanced for C proportional to N·D.',
    data,
    figure,
  )


def _isoflop(fit: dict[str, Any], index: int) -> Exhibit | None:
  budgets = [
    b for b in fit.get('budgets') or fit.get('isoflops') or []
    if isinstance(b, dict) and b.get('x') and b.get('y')
  ]  # fmt: skip
  if not budgets:
    return None
  named = [
    {**b, 'name': b.get('name') or notation.scientific(b.get('budget') or
                                                       b.get('c'))}
    for b in budgets
  ]  # fmt: skip
  rows = [
    {'budget': b['name'], 'x': x, 'y': y}
    for b in named
    for x, y in zip(b['x'], b['y'], strict=False)
  ]
  return Exhibit(
    _stem('isoflop', fit, index),
    'laws',
    f'IsoFLOP curves, {title_of(fit)}',
    'Runs of equal compute; stars are the accepted minima.',
    pd.DataFrame(rows),
    plots.isoflop(
      named, notation.label(fit.get('x')), notation.label(fit.get('y'))
    ),
    wide=True,
  )


def _residuals(fits: list[dict[str, Any]]) -> Exhibit | None:
  panels, tables = [], []
  for fit in fits:
    rows = residual_rows(fit)
    if rows:
      title = title_of(fit)
      x_label = notation.label(fit.get('x'))
      panels.append({'title': title, 'x_label': x_label, 'rows': rows})
      tables.append(pd.DataFrame(rows).assign(fit=title))
  if not panels:
    return None
  return Exhibit(
    'residuals',
    'laws',
    'Residuals',
    'Measured over predicted, minus one. A trend along the axis means that '
    'the form is wrong, whatever its intervals say.',
    pd.concat(tables, ignore_index=True),
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
  data = data.assign(
    on_frontier=[i in set(lower.index) for i in data.index]
  )
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
    'Mean cross-entropy of the codes of each scale, over the validation '
    'split.',
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


def _two_inputs(point: Mapping[str, Any]) -> dict[str, float]:
  inputs = {**(point.get('inputs') or {}), **point}
  pair = {}
  for short, options in (
    ('n', ('n', 'N', 'params', 'params_body')),
    ('d', ('d', 'D', 'tokens', 'tokens_seen')),
  ):
    for key in options:
      if notation.is_number(inputs.get(key)) and inputs[key] > 0:
        pair[short] = float(inputs[key])
        break
  return pair if len(pair) == 2 else {}


def _is_size(axis: Any) -> bool:
  return isinstance(axis, Mapping) and 'param' in str(axis.get('name'))

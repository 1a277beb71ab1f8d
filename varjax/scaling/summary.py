"""What a report says in words and tables, before any layout.

Between a `SweepDir` and the templates: plain strings and numbers only.
Numbers stay unrounded here; templates format them.
"""

from __future__ import annotations

from collections.abc import Mapping
import datetime
import importlib.metadata
import platform
from typing import Any

import pandas as pd

from varjax.scaling import fit_tables, fit_view, notation, sweepdir

_PACKAGES = ('varjax', 'numpy', 'scipy', 'pandas', 'matplotlib')
# What the analysis checklist asks, and where fit.json may answer.
_CHECKLIST = (
  ('Functional form', ('formula', 'form')),
  ('Quantity fitted', ('y',)),
  ('Against', ('x', 'inputs')),
  ('Data filter', ('filter',)),
  ('Points', ('points',)),
  ('Objective', ('objective_kind',)),
  ('Method', ('method',)),
  ('Starts', ('starts',)),
  ('Starts that agree', ('starts_agreeing',)),
  ('Seed', ('seed',)),
  ('Versions', ('versions',)),
)


def context(sweep: sweepdir.SweepDir) -> dict[str, Any]:
  """Everything the templates show, but for figures and pictures."""
  fits = fit_view.fits_of(sweep.fit)
  models = sweep.models
  complete = models[models['status'] == 'complete']
  return {
    'title': _title(sweep),
    'headline': headline(sweep, fits),
    'tiles': tiles(sweep, fits),
    'notices': notices(sweep, fits),
    'fits': [fit_tables.fit_row(f) for f in fits],
    'holdout': [row for f in fits for row in fit_tables.holdout_rows(f)],
    'backtests': [
      {'fit': fit_view.title_of(f), **tested}
      for f in fits
      for tested in fit_tables.backtests_of(f)
    ],
    'backtest_rows': [
      row
      for f in fits[:1]
      for tested in fit_tables.backtests_of(f)[:1]
      for row in fit_tables.holdout_rows(f, tested.get('rows') or [])
    ],
    'methods': (sweep.fit or {}).get('agreement') or [],
    'sensitivity': fit_tables.sensitivity_rows(fits),
    'profiles': fit_tables.profile_rows(fits),
    'published': fit_tables.published_rows(fits, sweep.runs),
    'models': run_rows(models),
    'tokenizers': run_rows(sweep.tokenizers),
    'failed': [r for r in run_rows(sweep.runs) if r['status'] != 'complete'],
    'num_complete': len(complete),
    'checklist': checklist(sweep.fit),
    'plan': sweep.plan,
    'commands': sweep.commands,
    'versions': versions(sweep),
    'written': datetime.datetime.now(datetime.UTC).strftime(
      '%Y-%m-%d %H:%M UTC'
    ),
  }


def headline(sweep: sweepdir.SweepDir, fits: list[dict[str, Any]]) -> list[str]:
  """The result in two to four sentences."""
  models = sweep.models
  complete = models[models['status'] == 'complete']
  sizes = complete['params_body'].dropna()
  text = f'{len(complete)} of {len(models)} models finished'
  if len(sizes):
    text += (
      f', {notation.count(sizes.min())} to {notation.count(sizes.max())} '
      'parameters in the transformer body'
    )
  sentences = [f'{text}.'] if len(sweep.runs) else []
  if not fits:
    sentences.append(
      'Nothing was fitted: there is no fit.json; run `varjax fit` first.'
      if sweep.fit is None
      else 'The fit was refused; the reasons stand below, and no exponent is '
      'reported.'
    )
    return sentences
  best = fits[0]
  names = [k for k in fit_tables.EXPONENTS if k in (best.get('params') or {})]
  if names:
    listed = ', '.join(fit_tables.exponent_text(best, k) for k in names)
    y_label = fit_view.axis_labels(best)[1]
    formula = str(best.get('formula') or best.get('form'))
    sentences.append(
      f'{y_label[:1].upper()}{y_label[1:]} against {fit_tables.against(best)} '
      f'follows {formula} with {listed}.'
    )
  else:
    sentences.append(
      f'{fit_view.title_of(best)} has no fitted exponent; see the notices.'
    )
  rows = [h for h in fit_tables.holdout_rows(best) if h['error'] is not None]
  if len(rows) > 2:
    inside = sum(row['inside'] is True for row in rows)
    mean = sum(abs(row['error']) for row in rows) / len(rows)
    sentences.append(
      f'{len(rows)} held-out runs were predicted with a mean absolute error '
      f'of {notation.percent(mean)}, {inside} of them inside the interval.'
    )
  for row in rows if len(rows) <= 2 else []:
    inside = {True: 'inside', False: 'outside', None: 'without'}[row['inside']]
    factor = row['extrapolation']
    beyond = f', {factor:.1f}× beyond the fit,' if factor else ''
    sentences.append(
      f'Held-out {row["name"]}{beyond} measured '
      f'{notation.number(row["measured"])} where '
      f'{notation.number(row["predicted"])} was predicted '
      f'({notation.percent(row["error"], signed=True)}, {inside} the interval).'
    )
  tested = best.get('backtest') or {}
  if not rows and notation.is_number(tested.get('mean_abs_error')):
    sentences.append(
      'No run was held out; leaving the largest out in turn, predictions miss '
      f'by {notation.percent(tested["mean_abs_error"])} on average and '
      f'{notation.percent(tested.get("coverage"), 0)} lie in their interval.'
    )
  elif not rows:
    sentences.append('No run was held out, so the law is not validated.')
  return sentences


def tiles(
  sweep: sweepdir.SweepDir, fits: list[dict[str, Any]]
) -> list[dict[str, str]]:
  """Large numbers at the top of the page: value, label and note."""
  models = sweep.models
  complete = models[models['status'] == 'complete']
  result = []
  for fit in fits[:1]:
    for name in [
      k for k in fit_tables.EXPONENTS if k in (fit.get('params') or {})
    ][:2]:
      bounds = (fit.get('intervals') or {}).get(name)
      result.append(
        {
          'value': notation.number(fit['params'][name], 3),
          'label': f'exponent {notation.symbol(name)}',
          'note': _interval_text(bounds),
        }
      )
    rows = [h for h in fit_tables.holdout_rows(fit) if h['error'] is not None]
    if rows:
      worst = max(rows, key=lambda r: abs(r['error']))
      inside = sum(r['inside'] is True for r in rows)
      result.append(
        {
          'value': notation.percent(worst['error'], signed=True),
          'label': 'held-out error'
          if len(rows) == 1
          else 'largest held-out error',
          'note': f'{inside} of {len(rows)} inside the interval',
        }
      )
  if sweep.runs.empty:
    return result
  bad = len(models) - len(complete)
  result.append(
    {
      'value': f'{len(complete)}/{len(models)}',
      'label': 'models complete',
      'note': f'{bad} not complete' if bad else 'none failed',
    }
  )
  flops = sweep.runs['flops_train_total'].sum(min_count=1)
  hours = sweep.runs['device_hours'].sum(min_count=1)
  result.append(
    {
      'value': notation.scientific(flops),
      'label': 'training FLOPs',
      'note': notation.duration(hours * 3600) + ' of device time'
      if notation.is_number(hours)
      else 'device time not recorded',
    }
  )
  return result


def _interval_text(bounds: Any) -> str:
  if not bounds:
    return 'no interval'
  level = fit_tables.level_text(bounds)
  return f'{level} {notation.interval(bounds)}'.strip()


def notices(
  sweep: sweepdir.SweepDir, fits: list[dict[str, Any]]
) -> list[dict[str, str]]:
  """Refusals, then warnings, then what is missing; each once."""
  found = []
  if sweep.fit is None:
    found.append(('warning', 'No fit.json here: only runs are shown.'))
  for level, key in (('refusal', 'refusals'), ('warning', 'warnings')):
    for fit in [sweep.fit or {}, *fits]:
      where = '' if fit is sweep.fit else f'{fit_view.title_of(fit)}: '
      for item in fit.get(key) or []:
        text = notation.sentence(item)
        if not any(t in (text, where + text) for _, t in found):
          found.append((level, where + text))
    if level == 'refusal':
      tables = (sweep.fit or {}).get('tables') or {}
      for item in tables.get('refused_fits') or []:
        found.append((level, notation.sentence(item)))
  mixed = [fit_view.title_of(f) for f in fits if _length_varies(f)]
  if mixed:
    found.append(
      (
        'warning',
        f'{", ".join(mixed[:3])}{" and others" if len(mixed) > 3 else ""}: '
        'training length differs between the runs, so this law mixes size '
        'and data; read L(N, D) instead.',
      )
    )
  models = sweep.models
  for status, words in (('failed', 'failed'), ('running', 'did not finish')):
    size = int((models['status'] == status).sum())
    if size:
      found.append(
        ('warning', f'{size} of {len(models)} models {words}; see the table.')
      )
  if sweep.runs.empty:
    found.append(
      ('note', 'No records.jsonl: the fit is of a table from elsewhere.')
    )
  elif sweep.curves.empty:
    found.append(('note', 'No curves.jsonl: training curves are not shown.'))
  return [{'level': level, 'text': text} for level, text in found]


def _length_varies(fit: Mapping[str, Any]) -> bool:
  """Whether the runs of an L(N) saw different amounts of data."""
  if list(fit.get('inputs') or {}) != ['n']:
    return False
  seen = [
    p['d']
    for p in fit.get('points') or []
    if p.get('used', True) and notation.is_number(p.get('d')) and p['d'] > 0
  ]
  return bool(seen) and max(seen) > 1.5 * min(seen)


def run_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
  """Runs as plain values; pandas' missing values become None."""
  rows = []
  for record in table.to_dict('records'):
    row = {str(k): None if _is_missing(v) else v for k, v in record.items()}
    row['label'] = row['name'] or row['run_id']
    row['device'] = _device(row)
    row['last_error'] = row['error'] or 'no error was recorded'
    rows.append(row)
  return rows


def checklist(fit: Mapping[str, Any] | None) -> list[dict[str, str]]:
  """The analysis choices that change an exponent (Misfitting, 2025)."""
  if not fit:
    return []
  given = fit.get('checklist')
  if isinstance(given, Mapping) and given:
    return [
      {'item': str(k).replace('_', ' ').capitalize(), 'value': _short(v)}
      for k, v in given.items()
    ]
  primary = next(iter(fit_view.fits_of(fit)), {})
  rows = []
  for item, keys in _CHECKLIST:
    value = next(
      (s[k] for s in (fit, primary) for k in keys if s.get(k) is not None),
      None,
    )
    text = 'not recorded' if value is None else _short(value)
    rows.append({'item': item, 'value': text})
  return rows


def versions(sweep: sweepdir.SweepDir) -> list[dict[str, str]]:
  """Of the code that trained, and of what wrote this page."""
  rows = []
  for column, item in (
    ('git_commit', 'trained by commit'),
    ('code_version', 'trained by code version'),
    ('jax_version', 'trained with jax'),
    ('device_kind', 'devices'),
    ('tokenizer_id', 'tokenizer'),
    ('eval_set', 'evaluation set'),
    ('dataset', 'dataset'),
  ):
    values = sorted({str(v) for v in sweep.runs[column].dropna()})
    rows.append({'item': item, 'value': ', '.join(values) or 'not recorded'})
  rows.append({'item': 'report: Python', 'value': platform.python_version()})
  for package in _PACKAGES:
    try:
      version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      version = 'not installed as a package'
    rows.append({'item': f'report: {package}', 'value': version})
  return rows


def _title(sweep: sweepdir.SweepDir) -> str:
  names = [str(n) for n in sweep.runs['sweep'].dropna().unique()]
  return names[0] if len(names) == 1 else sweep.path.resolve().name


def _short(value: Any) -> str:
  """A value of any JSON type in one line."""
  if isinstance(value, Mapping):
    if value.get('name'):
      return notation.label(value)
    return ', '.join(f'{k} {_short(v)}' for k, v in value.items())
  if isinstance(value, list):
    if any(isinstance(v, Mapping | list) for v in value):
      return f'{len(value)}'
    return ', '.join(map(_short, value))
  if isinstance(value, float):
    return notation.number(value, 5)
  return ' '.join(str(value).split())


def _device(row: Mapping[str, Any]) -> str:
  kind, size = row['device_kind'], row['device_count']
  if not kind:
    return notation.MISSING
  return f'{size} × {kind}' if size and size > 1 else str(kind)


def _is_missing(value: Any) -> bool:
  return value is None or value is pd.NA or value != value

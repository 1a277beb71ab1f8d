"""The exponent of N*(C) by every method that the data allow, side by side.

Methods differ by .01 to .05 on one data set: a single number hides that. A
method that the data cannot support has a row with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import pandas as pd

from varjax.scaling import fit as fit_lib
from varjax.scaling import (
  forms,
  identify,
  isoflop,
  minima,
  optimum,
  study,
)
from varjax.scaling import frontier as frontier_lib
from varjax.scaling import vpnls as vpnls_lib
from varjax.scaling.options import Options


def compare(
  studies: list[study.Study],
  frame: pd.DataFrame,
  edge: frontier_lib.Frontier | None,
  options: Options,
) -> dict[str, Any]:
  """{agreement, agreement_spread, isoflop} of the result file.

  Args:
    studies: the fits that were made; a surface among them is not refitted.
    frame: all runs, n, d, c, y, role.
    edge: the envelope of the training curves, if there is one.
    options: of the analysis.
  """
  options = dataclasses.replace(options, force=False)
  used, _ = study.choose(frame, options)
  runs = frame[used].reset_index(drop=True)
  rows: list[dict[str, Any]] = []
  params = None
  for made in studies:
    if made.fit.form.name == 'chinchilla':
      params = made.fit.params
      rows.append(_row(made))
  needed = runs[['n', 'd', 'y']].notna().all(axis=None)
  isoflops = None
  # A ladder that does not vary N and D has nothing to compare.
  levels = runs['d'].nunique() if needed else 0
  # Repeated tokens are worth less: surfaces of D do not apply to them.
  repeats = any(s.fit.form.name == 'repeat' for s in studies)
  if needed and len(runs) >= 6 and levels > 1 and not repeats:
    rows += _parametric(runs, rows, options)
    params = params or next(
      (r['params'] for r in rows if r.get('params')), None
    )
    for method in isoflop.METHODS:
      row, found = _isoflop(runs, method, options)
      rows.append(row)
      if found is not None and isoflops is None:
        k = options.conventions.k
        bias = isoflop.asymmetry(found, params, k) if params else None
        row['note'] += _bias_note(bias)
        isoflops = minima.budgets(found, bias, k)
  if edge is not None:
    rows.append(
      {
        'method': 'envelope', 'a': frontier_lib.size_exponent(edge),
        'lo': None, 'hi': None,
        'note': f'{edge.runs_on_it} runs on the frontier',
      }
    )  # fmt: skip
  rows = [{k: v for k, v in r.items() if k != 'params'} for r in rows]
  values = [row['a'] for row in rows if row['a'] is not None]
  spread = max(values) - min(values) if len(values) > 1 else None
  return {'agreement': rows, 'agreement_spread': spread, 'isoflop': isoflops}


def _row(made: study.Study) -> dict[str, Any]:
  found = made.entry['intervals'].get('a') or {}
  return {
    'method': f'parametric ({made.fit.method})',
    'a': made.entry['derived'].get('a'), 'lo': found.get('lo'),
    'hi': found.get('hi'), 'note': made.entry['name'],
  }  # fmt: skip


def _parametric(runs, rows, options: Options) -> list[dict[str, Any]]:
  columns = {k: runs[k].to_numpy(float) for k in ('n', 'd')}
  y = runs['y'].to_numpy(float)
  have = {row['method'] for row in rows}
  made = []
  fits: dict[str, Callable[[], fit_lib.Fit]] = {
    'huber': lambda: fit_lib.fit(
      forms.CHINCHILLA, columns, y, starts=60, seed=options.seed
    ),
    'vpnls': lambda: vpnls_lib.fit_vpnls(forms.CHINCHILLA, columns, y),
  }
  for name, make in fits.items():
    label = f'parametric ({name})'
    if label in have:
      continue
    row = {'method': label, 'a': None, 'lo': None, 'hi': None, 'note': ''}
    try:
      found = make()
    except identify.Refusal as refusal:
      made.append({**row, 'note': f'refused: {refusal.reason}'})
      continue
    split = optimum.exponents(found.params)
    made.append({**row, 'a': float(split['a']), 'params': found.params})
  return made


def _isoflop(runs, method: str, options: Options):
  row: dict[str, Any] = {
    'method': f'isoFLOP ({method})', 'a': None, 'lo': None, 'hi': None,
    'note': '',
  }  # fmt: skip
  try:
    found = isoflop.isoflop(
      runs, method=method, replicates=min(options.bootstrap, 400),
      seed=options.seed,
    )  # fmt: skip
  except identify.Refusal as refusal:
    return {**row, 'note': f'refused: {refusal.reason}'}, None
  lo, hi = found.interval or (None, None)
  note = f'{len(found.valid)} of {len(found.budgets)} budgets'
  return {**row, 'a': found.exponent, 'lo': lo, 'hi': hi, 'note': note}, found


def _bias_note(bias: dict[str, float] | None) -> str:
  if not bias:
    return ''
  return (
    f'; asymmetry bias of the parabola {100 * bias["size_bias"]:+.1f} % in '
    'N* at the largest budget'
  )

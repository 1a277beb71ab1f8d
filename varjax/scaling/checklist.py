"""The choices behind a result, in words (Li 2025, "Misfitting").

A scaling exponent means nothing without them; the report prints all.
"""

from __future__ import annotations

from typing import Any

from varjax.scaling.options import Options


def checklist(entry: dict[str, Any], options: Options) -> dict[str, str]:
  """{question: answer} for the primary fit."""
  used = sum(p['used'] for p in entry['points'])
  boot = entry['bootstrap']
  return {
    'form': f'{entry["form"]}: {entry["formula"]}',
    'pinned parameters': str(entry['pinned'] or 'none'),
    'data filter': entry['filter'] or 'none',
    'dropped': f'{entry["drop"]} highest losses',
    'points': f'{used} fitted, {len(entry["holdout"])} held out',
    'loss': f'{entry["y"]["name"]} ({entry["y"]["unit"] or "as given"})',
    'N counts': entry['n_convention'] or 'as given',
    'D counts': entry['d_convention'] or 'as given',
    'C is': entry['flop_convention'] or 'as given',
    'objective': entry['objective_kind'],
    'optimiser': 'batched damped Newton, float64, analytic derivatives',
    'initialisation': (
      f'{entry["starts"]} random starts, {entry["starts_agreeing"]} reached '
      'the best optimum'
    ),
    'intervals': (
      f'{boot["kind"]} bootstrap, {boot["replicates"]} refits, '
      f'{boot["failed"]} failed'
      if boot
      else 'none'
    ),
    'seed': str(options.seed),
    'versions': ', '.join(f'{k} {v}' for k, v in entry['versions'].items()),
  }

"""Figures of the runs: training curves, loss per scale, tokenizer."""

from __future__ import annotations

import json

import pandas as pd

from varjax.scaling import notation, plots, sweepdir
from varjax.scaling.exhibit import Exhibit

COMPUTE, LOSS = 'flops_train_total', 'val_loss_nats_per_token'


def build(sweep: sweepdir.SweepDir) -> list[Exhibit]:
  """The figures that records and curves support."""
  made = [_training_curves(sweep), _scale_losses(sweep), _tokenizer(sweep)]
  return [e for e in made if e is not None]


def frontier(curves: pd.DataFrame) -> pd.DataFrame:
  """Points that no other point beats at less or equal compute."""
  table = curves.sort_values([COMPUTE, LOSS])
  best = table[LOSS].cummin()
  return table[(table[LOSS] <= best) & ~best.duplicated()]


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

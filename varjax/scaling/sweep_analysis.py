"""From the records of a sweep to the whole result: fits, holdout, agreement.

Records give the analysis of the VAR paper and more: L and Err, mean and
last scale, against N, with and without a floor, the frontier L(C), and the
surface L(N, D) where D varies. Runs with the role `holdout` (or else the
largest size) are predicted, never fitted.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd

from varjax.scaling import collector, frontier, identify, table
from varjax.scaling.collector import Collector
from varjax.scaling.options import FORMS, ONE_D, Options, form_of
from varjax.scaling.study import Quantity, study


def analyse_records(
  records: pd.DataFrame,
  curves: pd.DataFrame | None = None,
  *,
  options: Options | None = None,
) -> dict[str, Any]:
  """Everything that a sweep's records support.

  Args:
    records: one row per run (varjax.records.load).
    curves: one row per evaluation (varjax.records.load_curves), or None.
    options: see Options; `form` and `metric` choose the primary fit, which
      is refused or made as asked; without a form it is L_mean(N) with a
      floor, or without where the runs are too few for one.

  Returns:
    The result of docs/fit_schema.md.

  Raises:
    FitRefused: the primary fit cannot be supported.
    ConfigError: an unknown column, form or convention.
  """
  options = options or Options()
  if options.hold_out is None:
    options = dataclasses.replace(options, hold_out=1)
  gate = identify.Gate(options.force)
  records = table.select(records, options.filters)
  identify.check_loss_name(_column(options.metric), gate)
  main = _frame(records, options.metric, options)
  identify.check_unmixed(main, gate)
  if len(main) < 4:
    raise identify.TooFewPoints(
      f'{len(main)} finished runs have {_column(options.metric)}: the '
      'largest is held out, and a power law needs 3 more',
      'train more sizes, or wait for the sweep to finish',
    )
  found = Collector()
  asked = options.form
  if asked is not None and asked not in ONE_D:
    _surface(found, main, options, asked)
    _require(found)
  _ladder(found, records, options.metric, options)
  _require(found, asked if asked in ONE_D else None)
  for metric in table.METRICS:
    if metric != options.metric:
      _ladder(found, records, metric, options)
  _scales(found, records, options)
  if asked != 'chinchilla':
    # The reducible-loss convention stands beside a fitted floor.
    _surface(found, main, options)
    if options.floor is not None:
      _surface(found, main, options, 'chinchilla_pinned')
  edge = None
  if curves is not None and len(curves):
    edge = _frontier(found, table.select(curves, options.filters), main,
                     options)  # fmt: skip
  return collector.finish(found, main, options, gate, edge)


def _frame(records: pd.DataFrame, metric: str, options: Options):
  frame = table.from_records(records, metric, options.conventions)
  return frame[frame['status'] == 'complete'].reset_index(drop=True)


def _column(metric: str) -> str:
  return table.METRICS[metric][0] if metric in table.METRICS else metric


def _ladder(
  found: Collector, records: pd.DataFrame, metric: str, options: Options
) -> None:
  """X(N) with and without a floor, and with a pinned one where given.

  With `--x d` or `--x c` the same against D or C.
  """
  frame = _frame(records, metric, options)
  if not len(frame):
    return
  _, unit, kind = table.METRICS.get(metric, (metric, '', 'loss'))
  quantity = Quantity(metric, unit, kind, metric == options.metric)
  kinds = [('power_floor', 'with floor'), ('power', 'without floor')]
  if options.floor_of(metric) is not None and kind == 'loss':
    kinds.append(('power_pinned', 'floor fixed'))
  if options.form in dict(kinds):
    kinds.sort(key=lambda k: k[0] != options.form)
  elif options.form in ONE_D and metric == options.metric:
    kinds.insert(0, (options.form, options.form))
  for name, words in kinds:
    floor = options.floor_of(metric) if name == 'power_pinned' else None
    form = form_of(name, floor)
    found.attempt(
      label := f'{metric}({options.x.upper()}) {words}',
      lambda form=form, label=label: study(
        frame, form, options, name=label, quantity=quantity, x_key=options.x
      ),
    )


def _scales(found: Collector, records: pd.DataFrame, options: Options) -> None:
  """L_k(N) of every scale of a next-scale model, without a floor."""
  column = 'val_loss_scales'
  if column not in records or records[column].isna().all():
    return
  lists = records[column].map(
    lambda text: json.loads(text) if isinstance(text, str) else []
  )
  for k in range(max(len(values) for values in lists)):
    name = f'scale_{k + 1}'
    values = [v[k] if len(v) > k else None for v in lists]
    part = records.assign(**{name: pd.Series(values, records.index, float)})
    frame = _frame(part, name, options)
    quick = dataclasses.replace(
      options, bootstrap=min(options.bootstrap, 300), backtest=False
    )
    found.attempt(
      f'L_{name}(N) without floor',
      lambda frame=frame, quick=quick, name=name: study(
        frame, FORMS['power'], quick, name=f'L_{name}(N) without floor',
        quantity=Quantity(f'L_{name}', 'nats per token', primary=False),
        x_key='n',
      ),
    )  # fmt: skip


def _surface(
  found: Collector,
  frame: pd.DataFrame,
  options: Options,
  name: str = 'chinchilla',
) -> None:
  free = name == 'chinchilla' != options.form
  form = form_of(name, None if free else options.floor, options.base)
  words = '' if name == 'chinchilla' else f' {name}'
  found.attempt(
    f'{options.metric}(N, D){words}',
    lambda: study(
      frame, form, options, name=f'{options.metric}(N, D){words}',
      quantity=Quantity(options.metric, 'nats per token'),
    ),
  )  # fmt: skip


def _require(found: Collector, form: str | None = None) -> None:
  """The primary fit exists, and is of the form that was asked for.

  Raises:
    FitRefused: it was refused, whatever other forms may do.
  """
  missing = not found.studies or (
    form is not None and found.studies[0].entry['form'] != form
  )
  if missing:
    raise found.first or identify.TooFewPoints('no run', 'train some')


def _frontier(
  found: Collector,
  curves: pd.DataFrame,
  main: pd.DataFrame,
  options: Options,
) -> frontier.Frontier | None:
  """L(C) on the envelope of the fitted runs' training curves."""
  frame = table.from_records(curves, options.metric, options.conventions)
  held = set(main.loc[main['role'] == 'holdout', 'run_id'])
  if not held and options.hold_out:
    sizes = np.unique(main['n'].to_numpy(float))[::-1][: options.hold_out]
    held = set(main.loc[main['n'].isin(sizes), 'run_id'])
  frame = frame[frame['run_id'].isin(set(main['run_id']) - held)]
  name = f'{options.metric}(C) frontier'
  edge = found.envelope(frame, name)
  if edge is None:
    return None
  targets = main[main['run_id'].isin(held)]
  kinds = [('power_floor', 'with floor'), ('power', 'without floor')]
  floor = options.floor_of(options.metric)
  if floor is not None and options.metric.startswith('L'):
    kinds.append(('power_pinned', 'floor fixed'))
  for name_of, words in kinds:
    form = form_of(name_of, floor if name_of == 'power_pinned' else None)
    label = f'{name} {words}'
    found.attempt(
      label,
      lambda form=form, label=label: frontier.study_envelope(
        edge, targets, form, options, label
      ),
    )
  return edge

"""From any table of runs to a result: one form, or isoFLOP minima.

For the data of other people, whose columns are named on the command line;
records of varjax have more to say (sweep_analysis.py).
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import pandas as pd

from varjax import errors
from varjax.scaling import (
  collector,
  frontier,
  identify,
  isoflop,
  minima,
  table,
)
from varjax.scaling.collector import Collector
from varjax.scaling.forms import Form
from varjax.scaling.options import ONE_D, Options, form_of
from varjax.scaling.study import Quantity, Study, choose, study


def analyse_table(
  given: pd.DataFrame,
  columns: Mapping[str, str],
  form: str | None = None,
  options: Options | None = None,
) -> dict[str, Any]:
  """One form on any table.

  Args:
    given: any table.
    columns: {n | d | c | u | y | name | run: its column}, y the loss.
    form: overrides options.form; chinchilla by default.
    options: see Options.

  Returns:
    The result of docs/fit_schema.md.

  Raises:
    FitRefused: the data cannot support the fit.
    ConfigError: an unknown column, form or convention.
  """
  options = options or Options()
  name = form or options.form or 'chinchilla'
  options = dataclasses.replace(options, form=name)
  gate = identify.Gate(options.force)
  if 'y' not in columns:
    raise errors.ConfigError('name the loss column: --loss COLUMN')
  identify.check_loss_name(columns['y'], gate)
  picked = table.select(given, options.filters).reset_index(drop=True)
  identify.check_unmixed(picked, gate)
  frame = table.from_columns(
    picked, columns, options.conventions, options.units
  )
  if options.method.startswith('isoflop'):
    return _isoflop(frame, options, gate, columns)
  shape = form_of(name, options.floor, options.base)
  x_key = options.x if name in ONE_D else None
  needed = [x_key] if x_key else list(shape.inputs)
  for key in needed:
    if frame[key].isna().all():
      raise errors.ConfigError(
        f'form {name} needs the column of {key}: --{key} COLUMN'
      )
  label = f'L({x_key.upper()})' if x_key else 'L(N, D)'
  words = _given_conventions(columns, options)
  quantity = Quantity(columns['y'], options.loss_unit)
  found, edge = Collector(), None
  runs_differ = frame['run_id'].duplicated().any()
  if runs_differ and frame[['n', 'c']].notna().all(axis=None):
    edge = found.envelope(frame[choose(frame, options)[0]], 'frontier')
  if options.method == 'envelope':
    made = _on_envelope(found, edge, frame, shape, options)
    made.entry.update(words)
    made.entry['y'] |= {'name': columns['y'], 'unit': options.loss_unit}
  else:
    made = study(
      frame, shape, options, name=f'{label} {name}', quantity=quantity,
      x_key=x_key, conventions=words,
    )  # fmt: skip
  found.studies.append(made)
  return collector.finish(found, frame, options, gate, edge)


def _given_conventions(
  columns: Mapping[str, str], options: Options
) -> dict[str, str | None]:
  """What N, D and C are in a foreign table: its columns, as they are."""
  words: dict[str, str | None] = {}
  for key, name in (('n', 'n'), ('d', 'd'), ('c', 'flop')):
    given = columns.get(key)
    words[f'{name}_convention'] = f'column {given!r}' if given else None
    if given and key in options.units:
      words[f'{name}_convention'] = f'column {given!r} x {options.units[key]:g}'
  if 'c' not in columns and {'n', 'd'} <= set(columns):
    words['flop_convention'] = f'C = {options.conventions.k:g} N D'
  return words


def _on_envelope(
  found: Collector,
  edge: frontier.Frontier | None,
  frame: pd.DataFrame,
  shape: Form,
  options: Options,
) -> Study:
  """L(C) on the envelope of a table's training curves.

  Raises:
    FitRefused: there is no envelope.
    ConfigError: the form is no L(C), or the rows have no run or compute.
  """
  if shape.inputs != ('x',):
    raise errors.ConfigError(
      'the envelope is a law of C: --form power or power_floor'
    )
  if edge is None:
    raise found.first or errors.ConfigError(
      'the envelope needs rows that are checkpoints of runs: name their '
      'columns with --run, --n and --c'
    )
  held = ~choose(frame, options)[0]
  ends = frame[held].sort_values('c').drop_duplicates('run_id', keep='last')
  name = f'L(C) frontier {shape.name}'
  return frontier.study_envelope(edge, ends, shape, options, name)


def _isoflop(
  frame: pd.DataFrame,
  options: Options,
  gate: identify.Gate,
  columns: Mapping[str, str],
) -> dict[str, Any]:
  """The result whose primary fit is the power law of isoFLOP minima."""
  if options.drop_highest:
    keep = table.drop_highest(frame['y'].to_numpy(), options.drop_highest)
    frame = frame[keep].reset_index(drop=True)
  method = 'akima' if options.method.endswith('akima') else 'parabola'
  made = isoflop.isoflop(
    frame, method=method, replicates=options.bootstrap, seed=options.seed,
    force=options.force,
  )  # fmt: skip
  entry = minima.entry(made, frame, options, columns['y'])
  entry.update(_given_conventions(columns, options))
  entry['refusals'] = [r.as_dict() for r in gate.kept] + entry['refusals']
  return collector.assemble(entry, [entry], Collector(), frame, options)

"""One named fit of an analysis: rows, fit, bootstrap, backtest, dictionary.

The step between a table and an entry of `fits` in the result file.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from varjax.scaling import (
  backtest,
  bootstrap,
  describe,
  fit,
  identify,
  profile,
  sensitivity,
  table,
  vpnls,
)
from varjax.scaling.bootstrap import Bootstrap
from varjax.scaling.fit import Fit
from varjax.scaling.forms import Form, SumForm
from varjax.scaling.options import Options


@dataclasses.dataclass(frozen=True)
class Quantity:
  """What is fitted: y of the result file; whether it is what was asked for."""

  name: str
  unit: str
  kind: str = 'loss'
  primary: bool = True


@dataclasses.dataclass(frozen=True)
class Study:
  """A fit with its refits and its entry of the result file."""

  fit: Fit
  boot: Bootstrap | None
  entry: dict[str, Any]


def study(
  frame: pd.DataFrame,
  form: Form,
  options: Options,
  *,
  name: str,
  quantity: Quantity,
  x_key: str | None = None,
  backtested: bool = True,
  conventions: dict[str, str | None] | None = None,
) -> Study:
  """Fits one form to the rows with the role `fit` and predicts the others.

  Args:
    frame: n, d, c, y, role, run_id, name; finished runs.
    form: what is fitted.
    options: how.
    name: of the entry.
    quantity: of the entry.
    x_key: n, d or c, for a 1-D form.
    backtested: whether leave-largest-out is run.
    conventions: what N, D and C count, in words; by default the options'.

  Returns:
    The fit and its entry.

  Raises:
    FitRefused: see identify.py.
  """
  key_of = {k: (x_key or k) if k == 'x' else k for k in form.inputs}
  used, why = choose(frame, options, x_key or 'n')
  gate = identify.Gate(options.force)
  used, why = _usable(frame, key_of, used, why, gate)
  rows = frame[used]
  runs = _runs(rows)
  distinct = None if runs is None else len(np.unique(runs))
  found = _fit(rows, form, key_of, options, distinct)
  boot = None
  if options.bootstrap and found.dof > 0:
    boot = bootstrap.bootstrap(
      found, options.bootstrap, seed=options.seed, clusters=runs,
      backend=options.bootstrap_backend,
    )  # fmt: skip
  tested = []
  if backtested and options.backtest and found.dof > 0:
    # A surface has a largest budget and a largest size.
    for by in [x_key] if x_key else ['c', 'n']:
      made = backtest.leave_largest_out(
        form, rows, key_of, options.objective(form), by=by,
        starts=min(options.starts, 60), seed=options.seed,
        replicates=min(options.bootstrap, 300) or 100, y_kind=quantity.kind,
      )  # fmt: skip
      tested += [made] if made else []
  entry = describe.describe(
    found, boot, name=name, x_key=x_key, y_name=quantity.name,
    y_unit=quantity.unit, y_kind=quantity.kind, frame=frame, used=used,
    why=why, backtests=tested,
    conventions=conventions or conventions_of(options),
  )  # fmt: skip
  entry |= _doubts(found, entry, quantity, options)
  entry['refusals'] = [r.as_dict() for r in gate.kept] + entry['refusals']
  entry['drop'] = options.drop_highest
  entry['filter'] = filter_text(options)
  entry['warnings'] += _warnings(found, distinct)
  return Study(found, boot, entry)


def _fit(
  rows: pd.DataFrame,
  form: Form,
  key_of: dict[str, str],
  options: Options,
  distinct: int | None,
) -> Fit:
  """The form on the rows, by the method that was asked for."""
  columns = {k: rows[v].to_numpy(float) for k, v in key_of.items()}
  y = rows['y'].to_numpy(float)
  if options.method == 'vpnls' and isinstance(form, SumForm):
    return vpnls.fit_vpnls(
      form, columns, y, force=options.force, distinct=distinct
    )
  return fit.fit(
    form, columns, y, options.objective(form), starts=options.starts,
    seed=options.seed, force=options.force, distinct=distinct,
  )  # fmt: skip


def _doubts(
  found: Fit, entry: dict[str, Any], quantity: Quantity, options: Options
) -> dict[str, Any]:
  """`profiles` and `sensitivity` of the entry, where there is reason."""
  out = {}
  if found.form.name == 'repeat':
    # Weakly identified by nature: never quoted without their profiles.
    out['profiles'] = _profiles(found, list(found.form.names))
  elif quantity.primary:
    # An interval of bootstraps says little of a parameter near a bound.
    out['profiles'] = _profiles(found, _weak(found, entry))
  if options.sensitivity and quantity.primary:
    out['sensitivity'] = sensitivity.sensitivity(
      found, others=sensitivity.others_of(found.form)
    )
    out['profiles'] = _profiles(found, _alone(found))
  return out


def _warnings(found: Fit, distinct: int | None) -> list[str]:
  """What the number of runs says about the intervals."""
  warnings = []
  if distinct is not None:
    warnings.append(
      f'{len(found.y)} rows are of {distinct} runs: intervals are over runs; '
      'points inside a longer learning-rate schedule lie above what a run of '
      'that length would reach'
    )
  if found.dof <= 2:
    warnings.append(
      f'{len(found.y)} runs for {len(found.form.names)} parameters: '
      f'{found.dof} degrees of freedom, so intervals rest on few residuals'
    )
  return warnings


def _runs(rows: pd.DataFrame) -> np.ndarray | None:
  """The run of every row, where some rows are of the same run."""
  if 'run_id' not in rows or not rows['run_id'].duplicated().any():
    return None
  return rows['run_id'].astype(str).to_numpy()


def _usable(
  frame: pd.DataFrame,
  key_of: dict[str, str],
  used: np.ndarray,
  why: list[str | None],
  gate: identify.Gate,
) -> tuple[np.ndarray, list[str | None]]:
  """Takes rows out whose values have no logarithm, or refuses them."""
  columns = {k: frame[v].to_numpy(float) for k, v in key_of.items()}
  y = frame['y'].to_numpy(float)
  picked = {k: v[used] for k, v in columns.items()}
  identify.check_values(picked, y[used], gate)
  good = np.isfinite(y) & (y > 0)
  for values in columns.values():
    good &= np.isfinite(values) & (values > 0)
  words = [
    w if g else 'a value is missing or not positive'
    for w, g in zip(why, good, strict=True)
  ]
  return used & good, words


def _profiles(found: Fit, names: list[str]) -> dict[str, dict]:
  return {n: profile.profile(found, n, points=31).as_dict() for n in names}


def _alone(found: Fit) -> list[str]:
  """The exponents and the floor; all parameters of other forms."""
  form = found.form
  if not isinstance(form, SumForm):
    return list(form.names)
  return [n for n in form.names if n == 'E' or n in form.exponents]


def _weak(found: Fit, entry: dict[str, Any]) -> list[str]:
  """Parameters whose interval spans a factor of three, or reaches 0."""
  weak = []
  for name in _alone(found):
    bounds = entry['intervals'].get(name)
    if bounds and bounds['hi'] > 3 * max(bounds['lo'], 0.0):
      weak.append(name)
  return weak


def choose(
  frame: pd.DataFrame, options: Options, by: str = 'n'
) -> tuple[np.ndarray, list[str | None]]:
  """Which rows are fitted, and why the others are not.

  Runs of the role `holdout` are never fitted; without one, `hold_out` of
  the largest values of `by` (n, d or c) are held out. Then the highest
  losses are dropped.
  """
  held = (frame['role'] == 'holdout').to_numpy()
  if not held.any() and options.hold_out:
    sizes = np.unique(frame[by].dropna().to_numpy(float))[::-1]
    held = frame[by].isin(sizes[: options.hold_out]).to_numpy()
  y = frame['y'].to_numpy(float)
  dropped = np.zeros(len(frame), bool)
  rows = np.flatnonzero(~held)
  dropped[rows[~table.drop_highest(y[rows], options.drop_highest)]] = True
  why: list[str | None] = [
    'holdout' if h else 'dropped: highest loss' if d else None
    for h, d in zip(held, dropped, strict=True)
  ]
  return ~held & ~dropped, why


def conventions_of(options: Options) -> dict[str, str | None]:
  """What N, D and C count, in words."""
  chosen = options.conventions
  return {
    'n_convention': f'{chosen.n}: {table.N_CONVENTIONS[chosen.n]}',
    'd_convention': f'{chosen.d}: {table.D_CONVENTIONS[chosen.d]}',
    'flop_convention': chosen.flop_text,
  }


def filter_text(options: Options) -> str | None:
  """The filter in words; None without one."""
  text = ', '.join(f'{k}={v}' for k, v in options.filters.items())
  return text or None

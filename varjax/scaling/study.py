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
  """What is fitted: y of the result file."""

  name: str
  unit: str
  kind: str = 'loss'


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
  used, why = choose(frame, options)
  gate = identify.Gate(options.force)
  used, why = _usable(frame, key_of, used, why, gate)
  rows = frame[used]
  objective = options.objective(form)
  columns = {k: rows[v].to_numpy(float) for k, v in key_of.items()}
  y = rows['y'].to_numpy(float)
  if options.method == 'vpnls' and isinstance(form, SumForm):
    found = vpnls.fit_vpnls(form, columns, y, force=options.force)
  else:
    found = fit.fit(
      form, columns, y, objective, starts=options.starts, seed=options.seed,
      force=options.force,
    )  # fmt: skip
  boot = None
  if options.bootstrap and found.dof > 0:
    boot = bootstrap.bootstrap(
      found, options.bootstrap, seed=options.seed,
      backend=options.bootstrap_backend,
    )  # fmt: skip
  tested = None
  if backtested and options.backtest and found.dof > 0:
    tested = backtest.leave_largest_out(
      form, rows, key_of, objective, by=x_key or 'c',
      starts=min(options.starts, 60), seed=options.seed,
      replicates=min(options.bootstrap, 300) or 100, y_kind=quantity.kind,
    )  # fmt: skip
  entry = describe.describe(
    found, boot, name=name, x_key=x_key, y_name=quantity.name,
    y_unit=quantity.unit, y_kind=quantity.kind, frame=frame, used=used,
    why=why, backtest=tested,
    conventions=conventions or conventions_of(options),
  )  # fmt: skip
  if form.name == 'repeat':
    # Weakly identified by nature: never quoted without their profiles.
    entry['profiles'] = {
      name: profile.profile(found, name, points=31).as_dict()
      for name in form.names
    }
  if options.sensitivity:
    entry['sensitivity'] = sensitivity.sensitivity(found)
    entry['profiles'] = entry.get('profiles') or _profiles(found)
  kept = [r.as_dict() for r in gate.kept]
  entry['refusals'] = kept + entry['refusals']
  entry['drop'] = options.drop_highest
  entry['filter'] = filter_text(options)
  if found.dof <= 2:
    entry['warnings'].append(
      f'{len(found.y)} runs for {len(form.names)} parameters: '
      f'{found.dof} degrees of freedom, so intervals rest on few residuals'
    )
  return Study(found, boot, entry)


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


def _profiles(found: Fit) -> dict[str, dict]:
  """Profiles of the exponents and the floor."""
  alone = [
    n
    for n in found.form.names
    if not isinstance(found.form, SumForm)
    or n == 'E'
    or n in found.form.exponents
  ]
  return {n: profile.profile(found, n, points=31).as_dict() for n in alone}


def choose(
  frame: pd.DataFrame, options: Options
) -> tuple[np.ndarray, list[str | None]]:
  """Which rows are fitted, and why the others are not.

  Runs of the role `holdout` are never fitted; without one, `hold_out` of
  the largest sizes are held out. Then the highest losses are dropped.
  """
  held = (frame['role'] == 'holdout').to_numpy()
  if not held.any() and options.hold_out:
    sizes = np.unique(frame['n'].to_numpy(float))[::-1]
    held = frame['n'].isin(sizes[: options.hold_out]).to_numpy()
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

"""Variable projection: a search over exponents, the rest by linear algebra.

Given its exponents a sum of power laws is linear in its coefficients, and
those are a non-negative least squares problem. What is left is a search in
one or two dimensions, which needs no starts to be guessed. Residuals are of
the loss itself (least squares, not log, not Huber); the two objectives
disagree by .01-.05 in the exponent a, which is worth seeing.
"""

from __future__ import annotations

from collections.abc import Mapping
import itertools

import numpy as np
from scipy import optimize

from varjax import errors
from varjax.scaling import identify, newton
from varjax.scaling.fit import Fit, count_agreeing, problem_of
from varjax.scaling.forms import Scale, SumForm, scale_of
from varjax.scaling.objective import Objective
from varjax.scaling.points import Points, checked


def fit_vpnls(
  form: SumForm,
  columns: Mapping[str, np.ndarray],
  y: np.ndarray,
  *,
  grid: int = 32,
  polished: int = 8,
  force: bool = False,
  distinct: int | None = None,
) -> Fit:
  """Fits a sum of power laws by variable projection.

  Args:
    form: a SumForm with a free or no floor.
    columns: its inputs, [n] each.
    y: losses [n].
    grid: exponents per dimension, log-spaced in .02 .. 2.
    polished: cells of the grid that are refined; those that end at the best
      optimum are counted as agreeing starts.
    force: keep refusals in the result.
    distinct: independent runs, when the rows are checkpoints of fewer.

  Returns:
    A Fit of method vpnls.

  Raises:
    FitRefused: see identify.py.
    ConfigError: a form that is not linear in its coefficients.
  """
  if not isinstance(form, SumForm):
    raise errors.ConfigError('vpnls fits sums of power laws only')
  gate = identify.Gate(force)
  points = checked(form, columns, y, gate, distinct=distinct)
  scale = scale_of(points.columns, points.y)
  objective = Objective('linear')
  problem = problem_of(
    form, points.columns, points.y, objective, points.weights, scale
  )
  starts = _search(form, points, scale, grid, polished)
  optimum = newton.minimise(problem, starts)
  best = int(np.argmin(optimum.value))
  value = float(optimum.value[best])
  agreeing = count_agreeing(optimum.value, objective, len(points.y))
  # The polish moves the refined cells by nothing, and should: the start
  # that matters is the grid's.
  identify.check_starts(
    identify.StartReport(polished, agreeing, float('inf')), gate
  )
  return Fit(
    form=form, objective=objective, scale=scale, columns=points.columns,
    y=points.y, weights=points.weights, theta=optimum.theta[best],
    value=value * float(np.exp(2 * scale.y)) * objective.factor,
    starts=polished, agreeing=agreeing, method='vpnls', seed=0,
    order=points.order, refusals=tuple(gate.kept),
  )  # fmt: skip


def _search(
  form: SumForm, points: Points, scale: Scale, grid: int, polished: int
) -> np.ndarray:
  """The best cells of a grid of exponents, refined: theta [polished, p]."""
  logs = {k: np.log(v) - scale.x[k] for k, v in points.columns.items()}
  target = points.y / np.exp(scale.y)

  def project(exponents: np.ndarray) -> tuple[float, np.ndarray]:
    design, offset = _design(form, exponents, logs, scale.y)
    values, norm = optimize.nnls(design, target - offset)
    return 0.5 * norm * norm, values

  axis = np.geomspace(0.02, 2.0, grid)
  cells = np.array(list(itertools.product(axis, repeat=len(form.exponents))))
  found = np.array([project(cell)[0] for cell in cells])
  starts = []
  for cell in cells[np.argsort(found)[:polished]]:
    # Exponents are searched by their logarithm: they stay positive.
    refined = optimize.minimize(
      lambda e: project(np.exp(e))[0], np.log(cell), method='Nelder-Mead',
      options={'xatol': 1e-7, 'fatol': 1e-15, 'maxiter': 400},
    )  # fmt: skip
    exponents = np.exp(refined.x)
    coefs = np.maximum(project(exponents)[1], 1e-6)
    starts.append(np.concatenate([np.log(coefs), exponents]))
  return np.array(starts)


def _design(form: SumForm, exponents, logs, log_y):
  """Columns of the free terms, [n, coefs], and the pinned part [n]."""
  named = dict(zip(form.exponents, exponents, strict=True))
  size = len(next(iter(logs.values())))
  columns, offset = [], np.zeros(size)
  for term in form.terms:
    power = np.zeros(size)
    for column, exponent in term.powers:
      power = power - named[exponent] * logs[column]
    value = np.exp(np.clip(power, -500, 500))
    if term.coef in form.pinned:
      offset = offset + form.pinned[term.coef] / np.exp(log_y) * value
    else:
      columns.append(value)
  return np.stack(columns, axis=1), offset

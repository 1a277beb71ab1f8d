"""Fits one form to one table of runs, from many starts, and judges it.

Between the table and the bootstrap. The fit is refused (identify.py) when
the design does not determine the form, when fewer than three starts agree
on the best optimum, or when that optimum is a start.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import math

import numpy as np

from varjax.scaling import identify, newton
from varjax.scaling.forms import FLOOR_MIN, Columns, Form, Scale, scale_of
from varjax.scaling.objective import Objective, Problem
from varjax.scaling.points import checked

# Relative difference of the objectives of two starts at one optimum.
_AGREE = 1e-6


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fitted form; everything that follows from it is a property.

  Attributes:
    form, objective, scale: what was fitted, how, in which units.
    columns, y, weights: the data, [n] each, in the user's units.
    theta: the optimum [p], normalised.
    value: the objective as reported (the sum over points).
    starts, agreeing: how many were tried, and ended at the optimum.
    method: huber, log, linear or vpnls.
    seed: of the starts.
    order: [n] which of the given rows each point is: rows are sorted, so
      that a result does not depend on their order.
    refusals, warnings: kept by force; found on the way.
  """

  form: Form
  objective: Objective
  scale: Scale
  columns: Columns
  y: np.ndarray
  weights: np.ndarray
  theta: np.ndarray
  value: float
  starts: int
  agreeing: int
  method: str
  seed: int
  order: np.ndarray
  refusals: tuple[identify.Refusal, ...] = ()
  warnings: tuple[str, ...] = ()

  @functools.cached_property
  def params(self) -> dict[str, float]:
    """Parameters in the user's units."""
    found = self.form.to_params(self.theta, self.scale)
    return {k: float(v) for k, v in found.items()}

  def log_predict(
    self, columns: Columns, theta: np.ndarray | None = None
  ) -> np.ndarray:
    """log of the predicted loss: [m], or [b, m] for theta [b, p]."""
    batch = self.theta[None] if theta is None else theta
    out = self.form.bind(columns, self.scale).value(batch) + self.scale.y
    return out[0] if theta is None else out

  def predict(self, columns: Columns) -> np.ndarray:
    """Predicted loss [m] in the user's units."""
    return np.exp(self.log_predict(columns))

  @functools.cached_property
  def residuals(self) -> np.ndarray:
    """log y - log predicted, [n]."""
    return np.log(self.y) - self.log_predict(self.columns)

  @property
  def dof(self) -> int:
    """Points less parameters."""
    return len(self.y) - len(self.form.names)

  @property
  def sigma_log(self) -> float:
    """Residual standard deviation of log y; nan without freedom."""
    if self.dof <= 0:
      return math.nan
    return float(np.sqrt(np.sum(self.residuals**2) / self.dof))

  @property
  def rmse_log(self) -> float:
    """Root mean square of the residuals of log y."""
    return float(np.sqrt(np.mean(self.residuals**2)))

  @property
  def r2(self) -> float:
    """Share of the variance of log y that the fit explains."""
    log = np.log(self.y)
    total = float(np.sum((log - log.mean()) ** 2))
    return 1.0 - float(np.sum(self.residuals**2)) / max(total, 1e-300)

  @functools.cached_property
  def condition(self) -> tuple[float, int]:
    """Condition number and rank of the Jacobian at the optimum."""
    bound = self.form.bind(self.columns, self.scale)
    _, jacobian = bound.jacobian(self.theta[None])
    return identify.condition_of(jacobian[0])

  @property
  def problem(self) -> Problem:
    """What was minimised, to evaluate it elsewhere than at the optimum."""
    return problem_of(
      self.form, self.columns, self.y, self.objective, self.weights, self.scale
    )


def problem_of(
  form: Form,
  columns: Columns,
  y: np.ndarray,
  objective: Objective,
  weights: np.ndarray,
  scale: Scale,
) -> Problem:
  """The optimiser's view of a data set.

  Args:
    form: what is fitted.
    columns: its inputs, [n] each, in the user's units.
    y: losses [n], or [b, n] of as many data sets.
    objective: what is minimised.
    weights: of the points, [n] or [b, n].
    scale: the units to work in.
  """
  return Problem(
    bound=form.bind(columns, scale),
    y=np.atleast_2d(y) / math.exp(scale.y),
    weights=np.atleast_2d(weights),
    objective=objective,
    bounds=form.bounds(),
  )


def fit(
  form: Form,
  columns: Mapping[str, np.ndarray],
  y: np.ndarray,
  objective: Objective | None = None,
  *,
  weights: np.ndarray | None = None,
  starts: int = 200,
  seed: int = 0,
  inits: np.ndarray | None = None,
  force: bool = False,
  distinct: int | None = None,
) -> Fit:
  """Fits a form.

  Args:
    form: see forms.py and nonlinear.py.
    columns: inputs by name, [n] each, positive, in the user's units.
    y: losses [n], positive.
    objective: Huber 1e-3 of log residuals by default.
    weights: of the points, [n]; 1 by default.
    starts: how many, drawn with `seed`.
    inits: starts of your own, [s, p], normalised, instead.
    force: keep refusals in the result instead of raising them.
    distinct: independent runs, when the rows are checkpoints of fewer.

  Returns:
    The best optimum.

  Raises:
    FitRefused: see identify.py.
  """
  gate = identify.Gate(force)
  objective = objective or Objective()
  points = checked(form, columns, y, gate, weights=weights, distinct=distinct)
  scale = scale_of(points.columns, points.y)
  problem = problem_of(
    form, points.columns, points.y, objective, points.weights, scale
  )
  if inits is None:
    rng = np.random.default_rng(seed)
    inits = form.starts(points.columns, points.y, rng, starts)
  optimum = newton.minimise(problem, inits)
  best = int(np.nanargmin(optimum.value))
  value = optimum.value[best]
  agreeing = count_agreeing(optimum.value, objective, len(points.y))
  clipped = np.clip(inits[best], *form.bounds().T)
  moved = float(np.max(np.abs(optimum.theta[best] - clipped)))
  # Squared residuals of the loss itself carry its unit.
  unit = math.exp(scale.y) if objective.kind == 'linear' else 1.0
  identify.check_starts(identify.StartReport(len(inits), agreeing, moved), gate)
  warnings = _judge(form, optimum.theta[best], gate)
  return Fit(
    form=form, objective=objective, scale=scale, columns=points.columns,
    y=points.y, weights=points.weights, theta=optimum.theta[best],
    value=float(value * objective.factor * unit**2), starts=len(inits),
    agreeing=agreeing, method=objective.kind, seed=seed, order=points.order,
    refusals=tuple(gate.kept), warnings=tuple(warnings),
  )  # fmt: skip


def count_agreeing(
  values: np.ndarray, objective: Objective, points: int
) -> int:
  """How many starts ended at the best optimum.

  Args:
    values: of the objective where each start ended, [s]; nan where it failed.
    objective: what was minimised.
    points: how many are fitted.
  """
  # Residuals of 1e-8 are exact in float64: such optima agree, too.
  exact = 0.5 * points * 1e-16
  if objective.kind == 'huber':
    exact = 0.5 * points * (1e-8 / objective.delta) ** 2
  return int((values <= np.nanmin(values) * (1 + _AGREE) + exact).sum())


def _judge(form: Form, theta: np.ndarray, gate: identify.Gate) -> list[str]:
  warnings = []
  bounds = form.bounds()
  for i, name in enumerate(form.names):
    if name == 'E':
      if theta[i] <= FLOOR_MIN + 1e-6:
        warnings.append(
          'the fitted floor E is 0: the data do not show an irreducible '
          'loss, so the form without a floor is the better one'
        )
      continue
    low, high = bounds[i]
    at_edge = theta[i] <= low + 1e-6 or theta[i] >= high - 1e-6
    if at_edge:
      gate.refuse(
        identify.Unidentifiable(
          f'{name} of {form.name} ran into its bound {theta[i]:.3g}',
          'widen the range of the runs, or ask for a form with fewer '
          'parameters',
        )
      )
  if form.name == 'power' and theta[form.names.index('alpha')] <= 0:
    gate.refuse(
      identify.WrongCurvature(
        'the loss rises with its input: a power law needs it to fall',
        'train the larger sizes longer, or tune their learning rate',
      )
    )
  return warnings

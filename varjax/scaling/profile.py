"""Profile likelihood: how far a parameter can go before the fit gets worse.

For parameters that the data barely determine (the decay of repeated data, a
floor) a percentile interval understates how flat the objective is; the
profile shows it, and says when it has no end. The other parameters are
refitted at every value. For squares the sum S along the profile is compared
with S0 (1 + t^2 / (n - p)), exact for linear models of few runs (Bates and
Watts 1988, section 6.1); for the Huber loss the likelihood ratio 2 n
log(S/S0) of Laplace tails with chi^2(1).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from varjax import errors
from varjax.scaling import newton
from varjax.scaling.fit import Fit
from varjax.scaling.forms import SumForm


@dataclasses.dataclass(frozen=True)
class Profile:
  """The objective along one parameter.

  Attributes:
    name: the parameter; values [m] in the user's units.
    objective: [m] as reported by the fit, the others refitted.
    lo, hi: ends of the interval; None where the profile stays below the
      threshold up to the bound, that is, where the data set no limit.
    level: of the interval.
    improved: whether a value beats the fit's optimum by more than 1e-6.
  """

  name: str
  values: np.ndarray
  objective: np.ndarray
  lo: float | None
  hi: float | None
  level: float
  improved: bool

  def as_dict(self) -> dict:
    """One entry of `profiles` of the result file."""
    return {
      'values': self.values, 'objective': self.objective, 'lo': self.lo,
      'hi': self.hi, 'level': self.level,
      'method': 'profile likelihood',
    }  # fmt: skip


def profile(
  fit: Fit,
  name: str,
  *,
  points: int = 41,
  level: float = 0.95,
  span: float | None = None,
) -> Profile:
  """Profiles one parameter.

  Args:
    fit: the optimum.
    name: an exponent, the floor E, or any parameter of a SmoothForm.
    points: values on each profile.
    level: of the interval.
    span: half width of the scan in the optimiser's coordinate (an exponent,
      or the logarithm of anything else); by default wide enough to reach
      the bounds of the form, or 1.5 for exponents.

  Returns:
    The profile and its interval.

  Raises:
    ConfigError: a parameter that cannot be profiled on its own.
  """
  names = list(fit.form.names)
  alone = names
  if isinstance(fit.form, SumForm):
    alone = [n for n in names if n == 'E' or n in fit.form.exponents]
  if name not in alone:
    raise errors.ConfigError(
      f'{fit.form.name}: {name!r} has no profile of its own; use one of '
      f'{", ".join(alone)}'
    )
  index = names.index(name)
  bounds = fit.form.bounds()
  low, high = bounds[index]
  centre = fit.theta[index]
  if span is not None:
    low, high = max(low, centre - span), min(high, centre + span)
  elif isinstance(fit.form, SumForm) and name in fit.form.exponents:
    low, high = max(low, centre - 1.5), min(high, centre + 1.5)
  elif isinstance(fit.form, SumForm):
    low, high = max(low, centre - 8.0), min(high, centre + 1.0)
  grid = np.unique(np.concatenate([np.linspace(low, high, points), [centre]]))
  theta, value = _scan(fit, index, grid)
  values = np.array(
    [float(fit.form.to_params(t, fit.scale)[name]) for t in theta]
  )
  objective = value * fit.objective.factor
  if fit.objective.kind == 'linear':
    objective = objective * np.exp(2 * fit.scale.y)
  best = objective.min()
  ratio = np.log(objective / max(best, 1e-300))
  limit = _limit(fit, level)
  lo, hi = _ends(values, ratio, ratio <= limit, limit)
  return Profile(
    name, values, objective, lo, hi, level,
    bool(best < fit.value * (1 - 1e-6)),
  )  # fmt: skip


def _scan(fit: Fit, index: int, grid: np.ndarray):
  """Refits at every grid value, from the neighbours outwards and back."""
  problem = fit.problem
  start = int(np.argmin(np.abs(grid - fit.theta[index])))
  theta = np.repeat(fit.theta[None], len(grid), axis=0)
  value = np.full(len(grid), np.inf)
  orders = [
    range(start, len(grid)), range(start, -1, -1), range(len(grid)),
  ]  # fmt: skip
  for order in orders:
    warm = theta[order[0]].copy()
    for i in order:
      bounds = problem.bounds.copy()
      bounds[index] = grid[i]
      starts = np.stack([warm, theta[i]])
      starts[:, index] = grid[i]
      fixed = dataclasses.replace(problem, bounds=bounds)
      found = newton.minimise(fixed, starts, max_steps=120)
      best = int(np.argmin(found.value))
      if found.value[best] < value[i]:
        value[i], theta[i] = found.value[best], found.theta[best]
      warm = theta[i].copy()
  return theta, value


def _limit(fit: Fit, level: float) -> float:
  """How far log S may rise above its minimum."""
  if fit.objective.kind == 'huber':
    return float(stats.chi2.ppf(level, 1)) / (2.0 * len(fit.y))
  dof = max(fit.dof, 1)
  return float(np.log1p(stats.t.ppf(0.5 + 0.5 * level, dof) ** 2 / dof))


def _ends(values, ratio, inside, limit):
  """Where the profile crosses the limit, interpolated; None at the edge."""
  where = np.flatnonzero(inside)
  first, last = int(where[0]), int(where[-1])
  lo = hi = None
  if first > 0:
    lo = _cross(values, ratio, first - 1, first, limit)
  if last < len(values) - 1:
    hi = _cross(values, ratio, last + 1, last, limit)
  return lo, hi


def _cross(values, ratio, outside: int, inside: int, limit: float) -> float:
  share = (ratio[outside] - limit) / max(ratio[outside] - ratio[inside], 1e-300)
  return float(values[outside] + share * (values[inside] - values[outside]))

"""A fit.json as a function: predicted loss, with its uncertainty.

Between the fitting engine and the planner. Bootstrap draws of the
parameters carry the uncertainty of the fit; `sigma_log` is what a new run
scatters around it.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from varjax import errors
from varjax.scaling import notation
from varjax.scaling.table import N_CONVENTIONS

SURFACE = ('E', 'A', 'B', 'alpha', 'beta')
_CURVES = ('power', 'power_floor', 'power_pinned')


@dataclasses.dataclass(frozen=True)
class Prediction:
  """A predicted loss and the 95 % interval of a new run around it."""

  value: float
  lo: float | None
  hi: float | None


@dataclasses.dataclass(frozen=True)
class Law:
  """L(N, D), or L(N), with the draws of its parameters.

  Attributes:
    name, form: of the fit.
    params: best values.
    draws: [b] values of every parameter, b = 0 without a bootstrap.
    sigma_log: residual standard deviation of log loss; 0 if unknown.
    n_convention: what N counts, a key of `table.N_CONVENTIONS`.
    assumed: True when the fit is not of varjax records, so that what its N
      counts is a guess.
    largest: {'n', 'd'} largest fitted inputs, where known.
    y: name of the fitted quantity.
    tail: share of the draws beyond each end of a 95 % interval.
  """

  name: str
  form: str
  params: dict[str, float]
  draws: dict[str, np.ndarray]
  sigma_log: float
  n_convention: str
  assumed: bool
  largest: dict[str, float]
  y: str
  tail: float = 0.025

  @property
  def has_surface(self) -> bool:
    """Whether data is one of its inputs."""
    return 'B' in self.params

  def loss(self, n: Any, d: Any = None, params: Any = None) -> Any:
    """Loss at N parameters and D tokens; D is ignored by L(N)."""
    p = self.params if params is None else params
    value = p.get('E', 0.0) + p['A'] * np.asarray(n, float) ** -p['alpha']
    if self.has_surface:
      value = value + p['B'] * np.asarray(d, float) ** -p['beta']
    return value

  def predict(self, n: float, d: float | None = None) -> Prediction:
    """Best value, and the 95 % interval from draws and residual noise."""
    value = float(self.loss(n, d))
    if not len(next(iter(self.draws.values()), ())):
      return Prediction(value, None, None)
    rng = np.random.default_rng(0)
    logs = np.log(self.loss(n, d, self.draws))
    logs = logs + self.sigma_log * rng.standard_normal(len(logs))
    lo, hi = np.exp(np.quantile(logs, [0.025, 0.975]))
    return Prediction(value, float(min(lo, value)), float(max(hi, value)))


def of_fit(fit: Mapping[str, Any]) -> Law:
  """The law to plan with: the surface L(N, D) if there is one, else L(N).

  Args:
    fit: contents of fit.json.

  Raises:
    FitRefused: there is neither, or the fit was made with --force against a
      refusal.
  """
  fits = [fit, *(f for f in fit.get('fits') or [] if isinstance(f, dict))]
  surfaces = [f for f in fits if _is_surface(f)]
  curves = [f for f in fits if _is_size_law(f)]
  chosen = next(iter(surfaces), None) or next(iter(curves), None)
  if chosen is None:
    raise errors.FitRefused(
      'the fit holds neither L(N, D) nor L(N) of a loss, so nothing can be '
      'planned from it; run `varjax fit` on a table with sizes'
    )
  forced = chosen.get('refusals') or []
  if forced:
    raise errors.FitRefused(
      f'{chosen.get("name")} was fitted with --force against a refusal '
      f'({notation.sentence(forced[0])}); a plan from it would be a guess'
    )
  convention = str(chosen.get('n_convention') or '').partition(':')[0]
  known = convention in N_CONVENTIONS
  y = str((chosen.get('y') or {}).get('name') or 'loss')
  inputs = chosen.get('inputs') or {}
  draws = (chosen.get('bootstrap') or {}).get('draws') or {}
  params = {k: float(v) for k, v in chosen['params'].items()}
  kept = {k: np.asarray(draws[k], float) for k in params if draws.get(k)}
  pinned = {k: np.full(1, v) for k, v in params.items() if k not in kept}
  complete = kept and set(pinned) <= set(chosen.get('pinned') or {})
  return Law(
    name=str(chosen.get('name') or chosen['form']),
    form=chosen['form'],
    params=params,
    draws={**pinned, **kept} if complete else {},
    sigma_log=float(chosen.get('sigma_log') or 0.0),
    n_convention=convention if known else 'total',
    assumed=not known,
    largest={
      k: float(v['max'])
      for k, v in inputs.items()
      if k in ('n', 'd') and notation.is_number((v or {}).get('max'))
    },
    y=y,
    tail=float((chosen.get('bootstrap') or {}).get('tail') or 0.025),
  )


def _is_surface(fit: Mapping[str, Any]) -> bool:
  params = fit.get('params') or {}
  return str(fit.get('form')).startswith('chinchilla') and all(
    notation.is_number(params.get(k)) for k in SURFACE
  )


def _is_size_law(fit: Mapping[str, Any]) -> bool:
  params, inputs = fit.get('params') or {}, fit.get('inputs') or {}
  return (
    fit.get('form') in _CURVES
    and list(inputs) == ['n']
    and (fit.get('y') or {}).get('kind', 'loss') == 'loss'
    and all(notation.is_number(params.get(k)) for k in ('A', 'alpha'))
  )

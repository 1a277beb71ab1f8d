"""What a fit minimises: a SUM over points, never a mean.

`huber` (Hoffmann 2022, section 3.3): Huber_delta of log yhat - log y, with
delta 1e-3. A mean, or a raw sum with default tolerances, stops early at
wrong parameters (Besiroglu 2024): the optimiser therefore works on the sum
divided by delta^2. `log` and `linear` are least squares of the logarithm
and of the loss itself.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from varjax import errors
from varjax.scaling.forms import BoundForm

KINDS = ('huber', 'log', 'linear')


@dataclasses.dataclass(frozen=True)
class Objective:
  """Kind of residual and of its loss.

  Attributes:
    kind: one of KINDS.
    delta: where the Huber loss turns linear, in log loss.
  """

  kind: str = 'huber'
  delta: float = 1e-3

  def __post_init__(self):
    if self.kind not in KINDS:
      raise errors.ConfigError(
        f'objective {self.kind!r} is unknown; use one of {", ".join(KINDS)}'
      )
    if not (np.isfinite(self.delta) and self.delta > 0):
      raise errors.ConfigError(f'delta must be positive, not {self.delta}')

  @property
  def text(self) -> str:
    """One line for the result file."""
    if self.kind == 'huber':
      return f'sum of Huber(delta={self.delta:g}) of log residuals'
    what = 'log residuals' if self.kind == 'log' else 'residuals'
    return f'sum of squared {what}'

  @property
  def factor(self) -> float:
    """What turns the optimiser's value into the reported one."""
    return self.delta**2 if self.kind == 'huber' else 2.0

  def residual(self, log_yhat: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log_yhat [b, n] (normalised), y [b or 1, n] (normalised) -> [b, n]."""
    if self.kind == 'linear':
      return np.exp(log_yhat) - y
    return log_yhat - np.log(y)

  def rho(self, r: np.ndarray) -> np.ndarray:
    """Loss of each residual, in the optimiser's scale."""
    if self.kind != 'huber':
      return 0.5 * r * r
    u = np.abs(r) / self.delta
    return np.where(u < 1.0, 0.5 * u * u, u - 0.5)

  def slope(self, r: np.ndarray) -> np.ndarray:
    """d rho / d r."""
    if self.kind != 'huber':
      return r
    return np.clip(r / self.delta, -1.0, 1.0) / self.delta

  def bend(self, r: np.ndarray, majorise: np.ndarray) -> np.ndarray:
    """d2 rho / d r2, or the majorising weight slope/r where asked. [b, n]."""
    if self.kind != 'huber':
      return np.ones_like(r)
    u = np.abs(r) / self.delta
    upper = 1.0 / np.maximum(u, 1.0)
    return np.where(majorise[:, None], upper, u < 1.0) / self.delta**2


@dataclasses.dataclass(frozen=True)
class Problem:
  """One data set with one form and objective, or many reweighted ones.

  Attributes:
    bound: the form on the inputs, n points.
    y: normalised loss [1 or b, n].
    weights: [1 or b, n]; a bootstrap's counts, or 1/variance.
    objective: see above.
    bounds: [p, 2].
  """

  bound: BoundForm
  y: np.ndarray
  weights: np.ndarray
  objective: Objective
  bounds: np.ndarray

  def take(self, rows: np.ndarray) -> Problem:
    """The same for a subset of the batch."""
    return dataclasses.replace(
      self,
      y=self.y if len(self.y) == 1 else self.y[rows],
      weights=self.weights if len(self.weights) == 1 else self.weights[rows],
    )

  def value(self, theta: np.ndarray) -> np.ndarray:
    """[b, p] -> [b]."""
    r = self.objective.residual(self.bound.value(theta), self.y)
    return (self.weights * self.objective.rho(r)).sum(axis=-1)

  def quadratic(
    self, theta: np.ndarray, majorise: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Gradient [b, p] and Hessian (or its positive majorant) [b, p, p]."""
    log_yhat, jacobian, curvature = self.bound.expand(theta)
    r = self.objective.residual(log_yhat, self.y)
    slope = self.weights * self.objective.slope(r)
    bend = self.weights * self.objective.bend(r, majorise)
    if self.objective.kind == 'linear':
      yhat = np.exp(log_yhat)
      bend = bend * yhat * yhat + np.where(majorise[:, None], 0, slope * yhat)
      slope = slope * yhat
    gradient = np.matmul(slope[:, None], jacobian)[:, 0]
    hessian = np.matmul(np.swapaxes(jacobian, 1, 2), jacobian * bend[..., None])
    exact = np.where(majorise[:, None], 0.0, slope)
    if exact.any():
      hessian = hessian + curvature(exact)
    return gradient, hessian

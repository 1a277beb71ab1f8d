"""Intervals: refits of resampled runs, all in one batched optimisation.

Three kinds. `runs` resamples whole runs with replacement (`clusters` when
rows are checkpoints of the same run: those are not independent).
`parametric` draws new losses around the fit with a noise level that is
itself drawn from its posterior, sigma^2 = s^2 dof / chi^2(dof): for a
linear model its percentiles are the exact Student-t intervals, which is
what ladders of five to ten sizes need, where resampling runs fails.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np

from varjax import errors
from varjax.scaling import newton
from varjax.scaling.fit import Fit
from varjax.scaling.forms import Columns
from varjax.scaling.objective import Problem

KINDS = ('auto', 'runs', 'clusters', 'parametric')
# Where refits run: newton.py, or newton_jax.py, which loads JAX.
BACKENDS = ('numpy', 'jax')


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """Refits of one Fit.

  Attributes:
    fit: what was resampled.
    kind: runs, clusters or parametric.
    theta: the refits that converged, [b, p], normalised.
    sigma: noise level of log y of each refit, [b].
    failed: refits that did not converge; they are not in theta.
    seed: of the resampling.
    backend: that refitted, one of BACKENDS.
  """

  fit: Fit
  kind: str
  theta: np.ndarray
  sigma: np.ndarray
  failed: int
  seed: int
  backend: str = 'numpy'

  @property
  def params(self) -> dict[str, np.ndarray]:
    """Parameters of every refit, in the user's units, [b] each."""
    return self.fit.form.to_params(self.theta, self.fit.scale)


def bootstrap(
  fit: Fit,
  replicates: int = 1000,
  *,
  kind: str = 'auto',
  clusters: np.ndarray | None = None,
  seed: int = 0,
  backend: str = 'numpy',
) -> Bootstrap:
  """Refits `replicates` resampled data sets.

  Args:
    fit: the fit to resample.
    replicates: how many.
    kind: one of KINDS; `auto` is `clusters` where they are given, `runs`
      with ten runs per parameter or more, and else `parametric`.
    clusters: run of every row that was given to the fit, any labels.
    seed: of the resampling.
    backend: one of BACKENDS; both take the same steps.

  Returns:
    The refits.

  Raises:
    ConfigError: an unknown kind or back end, or no clusters for `clusters`.
  """
  if kind not in KINDS:
    raise errors.ConfigError(
      f'bootstrap kind {kind!r} is unknown; use one of {", ".join(KINDS)}'
    )
  count, size = len(fit.y), len(fit.form.names)
  if kind == 'auto':
    kind = 'runs' if count >= 10 * size else 'parametric'
    kind = 'clusters' if clusters is not None else kind
  if kind == 'clusters' and clusters is None:
    raise errors.ConfigError('bootstrap kind clusters needs the run of a row')
  rng = np.random.default_rng(seed)
  problem = fit.problem
  if kind == 'parametric':
    dof = max(fit.dof, 1)
    spread = np.sqrt(np.sum(fit.residuals**2) / rng.chisquare(dof, replicates))
    noise = spread[:, None] * rng.standard_normal((replicates, count))
    noise /= np.sqrt(fit.weights / fit.weights.mean())
    log = fit.log_predict(fit.columns)[None] + noise - fit.scale.y
    problem = dataclasses.replace(problem, y=np.exp(log))
  else:
    labels = np.arange(count)
    if kind == 'clusters':
      labels = np.asarray(clusters)[fit.order]
    weights = _counts(labels, replicates, rng) * fit.weights[None]
    problem = dataclasses.replace(problem, weights=weights)
  starts = np.repeat(fit.theta[None], replicates, axis=0)
  optimum = minimiser(backend)(problem, starts)
  good = optimum.converged & np.isfinite(optimum.value)
  theta = optimum.theta[good]
  if kind == 'parametric':
    sigma = spread[good]
  else:
    sigma = np.full(len(theta), np.nan_to_num(fit.sigma_log))
  failed = int((~good).sum())
  return Bootstrap(fit, kind, theta, sigma, failed, seed, backend)


def minimiser(
  backend: str,
) -> Callable[[Problem, np.ndarray], newton.Optimum]:
  """The optimiser of a back end.

  Raises:
    ConfigError: not one of BACKENDS.
  """
  if backend == 'numpy':
    return newton.minimise
  if backend == 'jax':
    from varjax.scaling import newton_jax

    return newton_jax.minimise
  raise errors.ConfigError(
    f'bootstrap_backend {backend!r} is unknown; use one of '
    f'{", ".join(BACKENDS)}'
  )


def _counts(labels, replicates: int, rng: np.random.Generator) -> np.ndarray:
  """How often each row is drawn, [replicates, n]; clusters stay whole."""
  _, index = np.unique(np.asarray(labels), return_inverse=True)
  groups = int(index.max()) + 1
  drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=replicates)
  return drawn[:, index].astype(float)


def interval(values: np.ndarray, best: float, kind: str) -> dict | None:
  """95 % and 80 % percentile intervals of bootstrap values [b].

  Returns:
    {lo, hi, level, lo80, hi80, se, method}; None without finite values.
  """
  values = values[np.isfinite(values)]
  if len(values) < 20 or not np.isfinite(best):
    return None
  lo, lo80, hi80, hi = np.percentile(values, [2.5, 10, 90, 97.5])
  return {
    'lo': float(lo), 'hi': float(hi), 'level': 0.95,
    'lo80': float(lo80), 'hi80': float(hi80), 'se': float(np.std(values)),
    'method': f'bootstrap ({kind}), percentile',
  }  # fmt: skip


def band(
  boot: Bootstrap, columns: Columns, noise: bool, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
  """Interval of the fitted curve, or of new runs, at given inputs.

  Args:
    boot: the refits.
    columns: inputs, [m] each.
    noise: whether a new run's own scatter is added (prediction interval).
    level: of the interval.

  Returns:
    (lo, hi), [m] each, in the loss's units.
  """
  log = boot.fit.log_predict(columns, boot.theta)
  if noise:
    rng = np.random.default_rng([boot.seed, 1])
    log = log + _scatter(boot, log.shape, rng)
  tail = 50 * (1 - level)
  lo, hi = np.percentile(log, [tail, 100 - tail], axis=0)
  return np.exp(lo), np.exp(hi)


def _scatter(boot: Bootstrap, shape, rng: np.random.Generator) -> np.ndarray:
  if boot.kind == 'parametric':
    return boot.sigma[:, None] * rng.standard_normal(shape)
  # The residuals themselves, since the tails of real runs are not Gaussian,
  # inflated for the degrees of freedom that the fit has used.
  fit = boot.fit
  inflated = fit.residuals * np.sqrt(len(fit.y) / max(fit.dof, 1))
  return rng.choice(inflated, size=shape)

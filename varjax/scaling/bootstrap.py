"""Intervals: refits of resampled runs, all in one batched optimisation.

Three kinds. `runs` resamples whole runs with replacement (`clusters` when
rows are checkpoints of the same run: those are not independent).
`parametric` draws new losses around the fit with a noise level that is
itself drawn from its posterior, sigma^2 = s^2 dof / chi^2(dof): for a
linear model its percentiles are the exact Student-t intervals, which is
what ladders of five to ten sizes need, where resampling runs fails.

Plain percentiles of resampled runs do not hold what they promise, for three
reasons with a remedy each. Quantiles of B refits are taken at multiples of
1 / (B + 1); interpolating between the outermost loses one per cent of
coverage with 200 refits. Percentiles are too narrow: the variance is short
by (n - p) / n, and a normal stands where a t is due, so levels are expanded
(Hesterberg 2014, arXiv 1411.5279, for means; here with the degrees of
freedom of the fit). And refits are not centred on the fit, least of all
those of the Huber loss, which is nearly an absolute value: percentiles are
bias-corrected (Efron 1987, BCa without the acceleration).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np
from scipy import stats

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
    groups: independent units that were resampled; 0 for those of the fit.
  """

  fit: Fit
  kind: str
  theta: np.ndarray
  sigma: np.ndarray
  failed: int
  seed: int
  backend: str = 'numpy'
  groups: int = 0

  @property
  def resampled(self) -> bool:
    """Whether runs were drawn, so that percentiles need correction."""
    return self.kind != 'parametric'

  def tail(self, level: float = 0.95) -> float:
    """Share of the refits below (and above) an interval of this level.

    (1 - level) / 2, or for resampled runs Phi(-t sqrt(n / (n - p))), with t
    of n - p degrees of freedom.
    """
    plain = 0.5 * (1.0 - level)
    if not self.resampled:
      return plain
    count = self.groups or len(self.fit.y)
    dof = max(count - len(self.fit.form.names), 1)
    wide = stats.t.ppf(plain, dof) * np.sqrt(count / dof)
    return float(stats.norm.cdf(wide))

  @property
  def method(self) -> str:
    """How intervals are made, in words."""
    words = 'percentile'
    if self.resampled:
      words = 'bias-corrected and expanded percentile'
    return f'bootstrap ({self.kind}), {words}'

  def interval(self, values: np.ndarray, best: float) -> dict | None:
    """The interval of a quantity of the refits.

    Args:
      values: of the refits, [b].
      best: of the fit.

    Returns:
      {lo, hi, level, lo80, hi80, se, method}; None without finite values.
    """
    values = values[np.isfinite(values)]
    if len(values) < 20 or not np.isfinite(best):
      return None
    shift = 0.0
    if self.resampled:
      below = np.sum(values < best) + 0.5 * np.sum(values == best)
      shift = float(stats.norm.ppf((below + 0.5) / (len(values) + 1)))
    return interval(values, self.method, self.tail, shift)

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
  problem, labels = fit.problem, np.arange(count)
  if kind == 'parametric':
    dof = max(fit.dof, 1)
    spread = np.sqrt(np.sum(fit.residuals**2) / rng.chisquare(dof, replicates))
    noise = spread[:, None] * rng.standard_normal((replicates, count))
    noise /= np.sqrt(fit.weights / fit.weights.mean())
    log = fit.log_predict(fit.columns)[None] + noise - fit.scale.y
    problem = dataclasses.replace(problem, y=np.exp(log))
  else:
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
  groups = len(np.unique(labels)) if kind != 'parametric' else count
  return Bootstrap(fit, kind, theta, sigma, failed, seed, backend, groups)


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


def interval(
  values: np.ndarray,
  method: str,
  tail: Callable[[float], float] = lambda level: 0.5 * (1.0 - level),
  shift: float = 0.0,
) -> dict:
  """95 % and 80 % intervals of bootstrap values [b], finite ones.

  Args:
    values: of the refits.
    method: in words, for the result file.
    tail: level -> share of the values beyond each end.
    shift: z0 of the bias correction: both levels are moved by twice this,
      on the scale of a normal.

  Returns:
    {lo, hi, level, lo80, hi80, se, method}.
  """
  lo, hi = ends(values, tail(0.95), shift)
  lo80, hi80 = ends(values, tail(0.80), shift)
  # A floor at the edge of the data may send A beyond 1e154 in a refit: its
  # standard error is infinite then, and that is the answer.
  with np.errstate(over='ignore'):
    error = np.std(values)
  return {
    'lo': float(lo), 'hi': float(hi), 'level': 0.95,
    'lo80': float(lo80), 'hi80': float(hi80), 'se': float(error),
    'method': method,
  }  # fmt: skip


def ends(values: np.ndarray, tail: float, shift: float = 0.0) -> np.ndarray:
  """Both quantiles [2, ...] of values [b, ...], at multiples of 1/(b + 1)."""
  levels = np.array([tail, 1.0 - tail])
  if shift:
    levels = stats.norm.cdf(stats.norm.ppf(levels) + 2 * shift)
  return np.quantile(values, levels, axis=0, method='weibull')


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
  tail = boot.tail(level)
  if noise:
    rng = np.random.default_rng([boot.seed, 1])
    log = log + _scatter(boot, log.shape, rng)
    tail = 0.5 * (1.0 - level)  # the scatter is inflated already
  lo, hi = ends(log, tail)
  return np.exp(lo), np.exp(hi)


def _scatter(boot: Bootstrap, shape, rng: np.random.Generator) -> np.ndarray:
  if boot.kind == 'parametric':
    return boot.sigma[:, None] * rng.standard_normal(shape)
  # The residuals themselves, since the tails of real runs are not Gaussian,
  # inflated for the degrees of freedom that the fit has used.
  fit = boot.fit
  inflated = fit.residuals * np.sqrt(len(fit.y) / max(fit.dof, 1))
  return rng.choice(inflated, size=shape)

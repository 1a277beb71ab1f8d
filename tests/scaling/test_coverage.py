"""Do 95 % intervals hold what they promise, on data with a known truth?"""

import numpy as np
import pytest

from varjax.scaling import bootstrap, fit, forms, optimum
from varjax.scaling.objective import Objective

SURFACE = {'E': 1.69, 'A': 406.4, 'B': 410.7, 'alpha': 0.34, 'beta': 0.28}


def ladder_coverage(studies, replicates):
  """Share of intervals that hold the exponent, and a new run's loss."""
  rng = np.random.default_rng(0)
  x = np.geomspace(1e6, 1e8, 8)
  exponent, new_run = [], []
  for seed in range(studies):
    y = 30.0 * x**-0.2 * np.exp(0.01 * rng.standard_normal(8))
    found = fit.fit(
      forms.POWER, {'x': x[:-1]}, y[:-1], Objective('log'), starts=4
    )
    boot = bootstrap.bootstrap(found, replicates, seed=seed)
    lo, hi = np.percentile(boot.params['alpha'], [2.5, 97.5])
    exponent.append(lo <= 0.2 <= hi)
    lo, hi = bootstrap.band(boot, {'x': x[-1:]}, noise=True)
    new_run.append(lo[0] <= y[-1] <= hi[0])
  return float(np.mean(exponent)), float(np.mean(new_run))


def surface_coverage(studies, replicates, kind):
  rng = np.random.default_rng(1)
  hits, new = {'alpha': [], 'beta': [], 'E': [], 'a': []}, []
  n = np.exp(rng.uniform(np.log(1e7), np.log(1e10), 121))
  d = np.exp(rng.uniform(np.log(1e9), np.log(1e12), 121))
  truth = {**SURFACE, 'a': optimum.exponents(SURFACE)['a']}
  clean = optimum.surface(SURFACE, n, d)
  for seed in range(studies):
    y = clean * np.exp(0.004 * rng.standard_normal(121))
    found = fit.fit(
      forms.CHINCHILLA, {'n': n[:-1], 'd': d[:-1]}, y[:-1],
      Objective('log'), starts=6,
    )  # fmt: skip
    boot = bootstrap.bootstrap(found, replicates, kind=kind, seed=seed)
    draws = {**boot.params, 'a': optimum.exponents(boot.params)['a']}
    for name, held in hits.items():
      lo, hi = np.percentile(draws[name], [2.5, 97.5])
      held.append(lo <= truth[name] <= hi)
    lo, hi = bootstrap.band(boot, {'n': n[-1:], 'd': d[-1:]}, noise=True)
    new.append(lo[0] <= y[-1] <= hi[0])
  return {k: float(np.mean(v)) for k, v in {**hits, 'new run': new}.items()}


def test_ladder_intervals():
  # 150 studies: a true 95 % lies within .915 .. .985 with 95 %.
  exponent, new_run = ladder_coverage(150, 200)
  assert 0.91 <= exponent <= 0.99
  assert 0.91 <= new_run <= 0.99


@pytest.mark.slow
def test_ladder_intervals_closely():
  exponent, new_run = ladder_coverage(1200, 400)
  assert 0.93 <= exponent <= 0.97
  assert 0.93 <= new_run <= 0.97


@pytest.mark.slow
def test_surface_intervals():
  for name, share in surface_coverage(300, 200, 'parametric').items():
    assert 0.92 <= share <= 0.98, name


@pytest.mark.slow
def test_surface_intervals_of_resampled_runs():
  """Percentiles of resampled runs are a little short.

  With 120 runs and 200 refits the floor E is covered in 91 % of studies:
  its distribution is skewed and the resamples carry the fit's own bias.
  """
  shares = surface_coverage(300, 200, 'runs')
  assert 0.90 <= shares.pop('E') <= 0.98
  for name, share in shares.items():
    assert 0.91 <= share <= 0.98, name

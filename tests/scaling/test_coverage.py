"""Do 95 % intervals hold what they promise, on data with a known truth?"""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from varjax.scaling import (
  bootstrap,
  describe,
  fit,
  forms,
  isoflop,
  optimum,
)
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
    exponent.append(holds(found, boot, 'alpha', 0.2))
    lo, hi = bootstrap.band(boot, {'x': x[-1:]}, noise=True)
    new_run.append(lo[0] <= y[-1] <= hi[0])
  return float(np.mean(exponent)), float(np.mean(new_run))


def holds(found, boot, name, truth):
  """Whether the interval that is reported holds the truth."""
  bounds = describe.intervals(found, boot)[name]
  return bounds['lo'] <= truth <= bounds['hi']


def surface_coverage(studies, replicates, kind, objective='log', runs=120):
  rng = np.random.default_rng(1)
  hits, new = {k: [] for k in ('alpha', 'beta', 'E', 'a')}, []
  n = np.exp(rng.uniform(np.log(1e7), np.log(1e10), runs + 1))
  d = np.exp(rng.uniform(np.log(1e9), np.log(1e12), runs + 1))
  truth = {**SURFACE, 'a': optimum.exponents(SURFACE)['a']}
  clean = optimum.surface(SURFACE, n, d)
  for seed in range(studies):
    y = clean * np.exp(0.004 * rng.standard_normal(runs + 1))
    found = fit.fit(
      forms.CHINCHILLA, {'n': n[:-1], 'd': d[:-1]}, y[:-1],
      Objective(objective), starts=4,
    )  # fmt: skip
    boot = bootstrap.bootstrap(found, replicates, kind=kind, seed=seed)
    for name, held in hits.items():
      held.append(holds(found, boot, name, truth[name]))
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
@pytest.mark.parametrize('objective', ['log', 'huber'])
def test_surface_intervals_of_resampled_runs(objective):
  """What `varjax fit` reports of ten runs per parameter or more."""
  shares = surface_coverage(240, 300, 'auto', objective)
  for name, share in shares.items():
    assert 0.92 <= share <= 0.98, name


@pytest.mark.slow
@pytest.mark.parametrize('sizes', [6, 9, 15])
def test_isoflop_intervals_are_conservative(sizes):
  """Runs resampled within budgets, as published: wide for few sizes."""
  params = {**SURFACE, 'alpha': 0.31, 'beta': 0.31}
  rng = np.random.default_rng(0)
  held = []
  for seed in range(300):
    rows = []
    for c in np.logspace(18, 21, 5):
      n = optimum.optimum(params, c)[0] * np.geomspace(0.25, 4, sizes)
      y = optimum.surface(params, n, c / 6 / n)
      y = y * np.exp(0.002 * rng.standard_normal(sizes))
      rows += zip(n, c / 6 / n, [c] * sizes, y, strict=True)
    frame = pd.DataFrame(rows, columns=['n', 'd', 'c', 'y'])
    found = isoflop.isoflop(frame, replicates=399, seed=seed)
    lo, hi = bootstrap.ends(found.draws, 0.025)
    held.append(lo <= 0.5 <= hi)
  assert 0.94 <= np.mean(held) <= 1.0


def test_intervals_of_resampled_runs():
  """The same for a line of twenty runs: percentiles alone hold 91 %."""
  rng = np.random.default_rng(0)
  x = np.geomspace(1e6, 1e9, 20)
  wide, narrow = [], []
  for seed in range(200):
    y = 30.0 * x**-0.2 * np.exp(0.01 * rng.standard_normal(20))
    found = fit.fit(forms.POWER, {'x': x}, y, Objective('log'), starts=3)
    boot = bootstrap.bootstrap(found, 99, seed=seed)
    assert boot.kind == 'runs'
    wide.append(holds(found, boot, 'alpha', 0.2))
    lo, hi = np.percentile(boot.params['alpha'], [2.5, 97.5])
    narrow.append(lo <= 0.2 <= hi)
  assert 0.92 <= np.mean(wide) <= 0.98
  assert np.mean(narrow) < np.mean(wide)


def test_levels_are_expanded_by_the_degrees_of_freedom():
  x = np.geomspace(1e6, 1e9, 20)
  noise = np.random.default_rng(0).standard_normal(20)
  y = 30.0 * x**-0.2 * np.exp(0.01 * noise)
  found = fit.fit(forms.POWER, {'x': x}, y, Objective('log'), starts=3)
  boot = bootstrap.bootstrap(found, 20, kind='runs')
  # t of 18 degrees of freedom is 2.1009, and sqrt(20 / 18) = 1.0541.
  assert boot.tail() == pytest.approx(
    stats.norm.cdf(-2.1009 * 1.0541), rel=1e-3
  )
  assert boot.method == (
    'bootstrap (runs), bias-corrected and expanded percentile'
  )
  pairs = np.repeat(np.arange(10), 2)
  clustered = bootstrap.bootstrap(found, 20, kind='clusters', clusters=pairs)
  assert clustered.groups == 10
  assert clustered.tail() < boot.tail() < 0.025
  normal = bootstrap.bootstrap(found, 20, kind='parametric')
  assert normal.tail() == pytest.approx(0.025)
  assert boot.tail(0.8) < 0.1
  # 199 values: the fifth from either end, of 200 gaps between them.
  ends = bootstrap.ends(np.arange(1.0, 200.0), 0.025)
  assert ends == pytest.approx([5.0, 195.0])

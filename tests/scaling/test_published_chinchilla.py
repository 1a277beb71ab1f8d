"""T1, T2 and T8: the surface L(N, D) of Chinchilla, from open data.

The 245 runs that Epoch AI read off the plots of Hoffmann et al. (2203.15556),
the fit of Besiroglu et al. (2404.10102), and a design that has no surface.
"""

import numpy as np
import pandas as pd
from published import objective_at, surface_columns
import pytest
from scipy import stats

from varjax.scaling import (
  bootstrap,
  fit,
  forms,
  identify,
  optimum,
  sensitivity,
  vpnls,
)
from varjax.scaling.objective import Objective

HOFFMANN = {
  'A': np.exp(6.00734), 'B': np.exp(6.01792), 'E': np.exp(0.52672),
  'alpha': 0.33917, 'beta': 0.28491,
}  # fmt: skip


@pytest.fixture(scope='module')
def chinchilla_runs(scaling_data_dir):
  return pd.read_csv(scaling_data_dir / 'epoch_chinchilla_245.csv')


@pytest.fixture(scope='module')
def chinchilla(chinchilla_runs):
  data = chinchilla_runs[chinchilla_runs['kept'] == 1]
  return fit.fit(forms.CHINCHILLA, surface_columns(data), data['loss'])


@pytest.fixture(scope='module')
def refits(chinchilla):
  return bootstrap.bootstrap(chinchilla, 1000, kind='runs', seed=1)


def test_t1_global_minimum(chinchilla):
  p = chinchilla.params
  assert chinchilla.value <= 0.0010183
  assert chinchilla.value == pytest.approx(0.0010182740, rel=1e-6)
  assert p['A'] == pytest.approx(477.826, abs=0.01)
  assert p['B'] == pytest.approx(2143.417, abs=0.1)
  assert p['E'] == pytest.approx(1.81722, abs=1e-5)
  assert p['alpha'] == pytest.approx(0.347310, abs=1e-6)
  assert p['beta'] == pytest.approx(0.367172, abs=1e-6)
  assert optimum.exponents(p)['a'] == pytest.approx(0.51390, abs=1e-5)
  assert chinchilla.agreeing > 0.9 * chinchilla.starts
  assert chinchilla.condition[1] == 5


def test_t1_published_optima_are_worse(chinchilla):
  besiroglu = {
    'A': 482.01,
    'B': 2085.43,
    'E': 1.8172,
    'alpha': 0.3478,
    'beta': 0.3658,
  }
  rounded = {'A': 406.4, 'B': 410.7, 'E': 1.69, 'alpha': 0.34, 'beta': 0.28}
  above = objective_at(chinchilla, besiroglu) / chinchilla.value - 1
  # .036 % before rounding to the printed digits, which adds the rest.
  assert 3.6e-4 < above < 0.01
  # Five printed digits fix this one to .04 %.
  assert objective_at(chinchilla, HOFFMANN) == pytest.approx(
    0.0012311626, rel=1e-3
  )
  assert objective_at(chinchilla, rounded) == pytest.approx(
    0.0041210091, rel=1e-6
  )


def test_t1_intervals_have_the_published_widths(chinchilla, refits):
  boot = refits
  assert boot.failed == 0
  published = {
    'A': (285, 744), 'B': (1042, 5810), 'E': (1.769, 1.871),
    'alpha': (0.317, 0.373), 'beta': (0.331, 0.415),
  }  # fmt: skip
  draws = boot.params
  for name, (lo, hi) in published.items():
    found = np.percentile(draws[name], [2.5, 97.5])
    assert found[1] - found[0] == pytest.approx(hi - lo, rel=0.10), name
    told = boot.interval(draws[name], chinchilla.params[name])
    assert told['hi'] - told['lo'] == pytest.approx(hi - lo, rel=0.10), name
  split = optimum.exponents(draws)
  assert np.std(split['a']) == pytest.approx(0.020, rel=0.10)
  a80 = np.percentile(split['a'], [10, 90])
  assert a80 == pytest.approx([0.492, 0.541], abs=0.004)
  # Hoffmann's interval of width .001 would need so many runs.
  runs = 240 * ((a80[1] - a80[0]) / 0.001) ** 2
  assert runs == pytest.approx(635e3, rel=0.2)


@pytest.mark.parametrize(
  ('flops', 'best', 'percents', 'bounds'),
  [
    (1e21, 21.4, (10, 90), (17.2, 26.2)),
    (5.76e23, 17.9, (10, 90), (10.4, 28.7)),
    (5.76e23, 17.9, (2.5, 97.5), (7.8, 35.9)),
    (1e25, 16.6, (10, 90), (8.2, 29.9)),
  ],
)
def test_t1_tokens_per_parameter(
  chinchilla, refits, flops, best, percents, bounds
):
  n, d, _ = optimum.optimum(chinchilla.params, flops)
  assert d / n == pytest.approx(best, abs=0.1)
  if flops == 5.76e23:
    assert n == pytest.approx(7.32e10, rel=0.002)
    assert d == pytest.approx(1.312e12, rel=0.002)
  n, d, _ = optimum.optimum(refits.params, flops)
  found = np.percentile(d / n, percents)
  assert found == pytest.approx(bounds, rel=0.10)


def test_t1_hoffmanns_parameters_are_rejected(chinchilla, refits):
  """chi2(5) of the published notebook is 238.4, p = 1.7e-49."""

  def logs(params):
    return np.stack(
      [np.log(params[k]) for k in 'ABE']
      + [np.asarray(params[k]) for k in ('alpha', 'beta')]
    )

  off = logs(chinchilla.params) - logs(HOFFMANN)
  distance = off @ np.linalg.solve(np.cov(logs(refits.params)), off)
  assert distance == pytest.approx(238.4, rel=0.10)
  assert stats.chi2.sf(distance, 5) < 1e-40


def test_t2_starting_at_a_published_optimum_ends_at_the_minimum(chinchilla):
  """Where the original fit stopped after two iterations."""
  data = chinchilla.columns
  start = chinchilla.form.to_theta(HOFFMANN, chinchilla.scale)
  found = fit.fit(
    forms.CHINCHILLA, data, chinchilla.y, inits=np.repeat(start[None], 3, 0)
  )
  assert found.value == pytest.approx(chinchilla.value, rel=1e-9)
  assert found.agreeing == 3
  # The grid of Hoffmann: a share of these starts that agree is printed, and
  # is no smaller than that of a rescaled quasi-Newton method (.34).
  rng = np.random.default_rng(0)
  grid = np.stack(
    [
      rng.choice(np.arange(low, high + step, step), 50)
      for low, high, step in (
        (0, 25, 5.0), (0, 25, 5.0), (-1, 1, 0.5), (0, 2, 0.5), (0, 2, 0.5),
      )
    ], axis=1,
  )  # fmt: skip
  scale = chinchilla.scale
  grid[:, 0] -= grid[:, 3] * scale.x['n'] + scale.y
  grid[:, 1] -= grid[:, 4] * scale.x['d'] + scale.y
  grid[:, 2] -= scale.y
  found = fit.fit(forms.CHINCHILLA, data, chinchilla.y, inits=grid)
  assert found.value == pytest.approx(chinchilla.value, rel=1e-6)
  assert found.agreeing >= 17


def test_t2_outliers_matter_more_than_delta(chinchilla_runs, chinchilla):
  every = fit.fit(
    forms.CHINCHILLA, surface_columns(chinchilla_runs),
    chinchilla_runs['loss'], starts=40,
  )  # fmt: skip
  a = optimum.exponents(every.params)['a']
  assert a == pytest.approx(0.565, abs=0.002)
  assert 0.34555 <= every.params['alpha'] <= 0.34935
  assert 0.45135 <= every.params['beta'] <= 0.45315
  assert 1.885 <= every.params['E'] <= 1.892
  for objective, expected in (
    (Objective('huber', 1e-2), 0.571), (Objective('huber', 0.1), 0.616),
    (Objective('linear'), 0.642),
  ):  # fmt: skip
    other = fit.fit(
      forms.CHINCHILLA, surface_columns(chinchilla_runs),
      chinchilla_runs['loss'], objective, starts=8,
    )  # fmt: skip
    a = optimum.exponents(other.params)['a']
    assert a == pytest.approx(expected, abs=5e-4), objective
  rows = sensitivity.sensitivity(
    chinchilla, deltas=(1e-5, 1e-4, 1e-3), drops=(), starts=12
  )
  rows = {row['choice']: row for row in rows}
  for choice in ('as fitted', 'huber, delta 1e-05', 'huber, delta 0.0001'):
    assert 0.5126 - 2e-4 <= rows[choice]['a'] <= 0.5139 + 2e-4, choice
    assert 0.34665 <= rows[choice]['params']['alpha'] <= 0.34775, choice
    assert 0.36535 <= rows[choice]['params']['beta'] <= 0.36725, choice


def test_t2_linear_least_squares(chinchilla_runs):
  data = chinchilla_runs[chinchilla_runs['kept'] == 1]
  found = vpnls.fit_vpnls(forms.CHINCHILLA, surface_columns(data), data['loss'])
  assert found.params['E'] == pytest.approx(1.8828, abs=1e-4)
  assert found.params['alpha'] == pytest.approx(0.3576, abs=1e-4)
  assert found.params['beta'] == pytest.approx(0.4276, abs=1e-4)
  data = data[data['flops'] < 1e21]
  assert len(data) == 217
  found = vpnls.fit_vpnls(forms.CHINCHILLA, surface_columns(data), data['loss'])
  assert found.value == pytest.approx(0.062414, abs=1e-6)
  assert found.params['E'] == pytest.approx(1.90509, abs=1e-5)
  assert found.params['alpha'] == pytest.approx(0.35106, abs=1e-5)
  assert found.params['beta'] == pytest.approx(0.45874, abs=1e-5)
  # The general optimiser finds the same minimum.
  same = fit.fit(
    forms.CHINCHILLA, surface_columns(data), data['loss'],
    Objective('linear'), starts=20,
  )  # fmt: skip
  assert same.value == pytest.approx(found.value, rel=1e-9)


def raw_condition(params, columns):
  n, d = columns['n'], columns['d']
  by_n, by_d = n ** -params['alpha'], d ** -params['beta']
  return identify.condition_of(
    np.stack(
      [
        np.ones_like(n), by_n, by_d, params['A'] * by_n * np.log(n),
        params['B'] * by_d * np.log(d),
      ], axis=1,
    )
  )[0]  # fmt: skip


def test_t8_degenerate_design_is_refused(scaling_data_dir, chinchilla):
  data = pd.read_csv(scaling_data_dir / 'jaxsl_degenerate_9.csv')
  ladder = data[data['heldout'] == 0]
  columns = surface_columns(ladder)
  assert identify.design_condition(forms.CHINCHILLA, columns) > 1e10
  # Column-normalised, of the parameters as they are: 228 for the runs that
  # Besiroglu fitted (33 in the units of the optimiser).
  assert raw_condition(chinchilla.params, chinchilla.columns) == pytest.approx(
    228, abs=0.5
  )
  assert raw_condition(chinchilla.params, columns) > 1e6
  with pytest.raises(identify.TiedInputs, match='proportional'):
    fit.fit(forms.CHINCHILLA, columns, ladder['loss'])
  forced = fit.fit(
    forms.CHINCHILLA, columns, ladder['loss'], force=True, starts=20
  )
  assert 'TiedInputs' in [type(r).__name__ for r in forced.refusals]
  # What it may offer is L(N), and its interval must be wide enough to be
  # honest about the run that the published fit missed by 18 %.
  line = fit.fit(
    forms.POWER, {'x': columns['n']}, ladder['loss'], Objective('log')
  )
  assert 0.1 < line.params['alpha'] < 0.5

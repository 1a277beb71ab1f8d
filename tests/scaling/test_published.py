"""T1-T9: numbers that other people's open data must give."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from varjax.scaling import (
  bootstrap,
  fit,
  forms,
  identify,
  isoflop,
  nonlinear,
  optimum,
  profile,
  reference,
  sensitivity,
  vpnls,
)
from varjax.scaling.objective import Objective

REPEAT_BASE = {
  'A': np.exp(6.255414), 'B': np.exp(7.3049974), 'E': np.exp(0.6254804),
  'alpha': 0.3526596, 'beta': 0.3526596,
}  # fmt: skip


def surface_columns(data, n='params', d='tokens'):
  return {'n': data[n].to_numpy(float), 'd': data[d].to_numpy(float)}


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


def objective_at(found, params):
  theta = found.form.to_theta(params, found.scale)
  value = found.problem.value(theta[None])[0]
  return float(value * found.objective.factor)


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
  hoffmann = {
    'A': np.exp(6.00734), 'B': np.exp(6.01792), 'E': np.exp(0.52672),
    'alpha': 0.33917, 'beta': 0.28491,
  }  # fmt: skip
  rounded = {'A': 406.4, 'B': 410.7, 'E': 1.69, 'alpha': 0.34, 'beta': 0.28}
  above = objective_at(chinchilla, besiroglu) / chinchilla.value - 1
  # .036 % before rounding to the printed digits, which adds the rest.
  assert 3.6e-4 < above < 0.01
  # Five printed digits fix this one to .04 %.
  assert objective_at(chinchilla, hoffmann) == pytest.approx(
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
  hoffmann = np.array([6.00734, 6.01792, 0.52672, 0.33917, 0.28491])

  def logs(params):
    return np.stack(
      [np.log(params[k]) for k in 'ABE']
      + [np.asarray(params[k]) for k in ('alpha', 'beta')]
    )

  off = logs(chinchilla.params) - hoffmann
  distance = off @ np.linalg.solve(np.cov(logs(refits.params)), off)
  assert distance == pytest.approx(238.4, rel=0.10)
  assert stats.chi2.sf(distance, 5) < 1e-40


def test_t2_starting_at_a_published_optimum_ends_at_the_minimum(chinchilla):
  """Where the original fit stopped after two iterations."""
  data = chinchilla.columns
  start = chinchilla.form.to_theta(
    {
      'A': np.exp(6.00734), 'B': np.exp(6.01792), 'E': np.exp(0.52672),
      'alpha': 0.33917, 'beta': 0.28491,
    }, chinchilla.scale,
  )  # fmt: skip
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


@pytest.mark.parametrize(
  ('experiment', 'a', 'lo', 'hi', 'a_vpnls', 'a_huber'),
  [
    ('epochai_chinchilla__massivetext__chinchilla',
     0.541, 0.492, 0.556, 0.5346, 0.5385),
    ('llama_3__exp_loss', 0.495, 0.485, 0.509, 0.5077, 0.5288),
    ('llama_3__raw_loss', 0.500, 0.488, 0.512, 0.4994, 0.5091),
    ('misfitting__fineweb_c4__transformer',
     0.523, 0.492, 0.587, 0.5243, 0.5087),
  ],
)  # fmt: skip
def test_t3_t4_isoflop(
  scaling_data_dir, experiment, a, lo, hi, a_vpnls, a_huber
):
  data = pd.read_csv(
    scaling_data_dir / 'isoflops_llama3_chinchilla_misfitting.csv'
  )
  data = data[(data['experiment'] == experiment) & ~data['outlier']]
  frame = pd.DataFrame(
    {
      'n': data['params'], 'd': data['tokens'], 'c': data['budget'],
      'y': data['loss'],
    }
  )  # fmt: skip
  found = isoflop.isoflop(frame, replicates=400)
  assert found.exponent == pytest.approx(a, abs=0.005)
  assert found.interval == pytest.approx((lo, hi), abs=0.012)
  columns = {'n': frame['n'], 'd': frame['d']}
  surface = vpnls.fit_vpnls(forms.CHINCHILLA, columns, frame['y'])
  split = optimum.exponents(surface.params)
  assert split['a'] == pytest.approx(a_vpnls, abs=1e-4)
  surface = fit.fit(forms.CHINCHILLA, columns, frame['y'], starts=20)
  split = optimum.exponents(surface.params)
  assert split['a'] == pytest.approx(a_huber, abs=1e-4)


def test_t5_porian_chain(scaling_data_dir):
  pairs = pd.read_csv(scaling_data_dir / 'porian_rw_optimal_pairs.csv')
  targets = pd.read_csv(scaling_data_dir / 'porian_rw_targets.csv')
  points = pd.read_csv(scaling_data_dir / 'porian_rw_isoflop_points.csv')
  targets = targets.set_index('config')
  chain = []
  for config, group in pairs.groupby('config', sort=False):
    weights = 1 / group['n_star_logstd'] ** 2
    found, _ = isoflop.line(group['flops'], group['n_star'], weights)
    assert found == pytest.approx(targets.loc[config, 'a_weighted'], abs=5e-5)
    chain.append(found)
  assert chain[:5] == pytest.approx(
    [0.8353, 0.7065, 0.6020, 0.5715, 0.4969], abs=5e-5
  )
  # The chain from its second step on, with attention FLOPs.
  assert [
    targets.loc[c, 'a_weighted'] for c in targets.index if 'attention' in c
  ] == pytest.approx([0.7171, 0.6223, 0.5772, 0.5053], abs=5e-5)
  # From the raw points, local interpolation comes nearer to the published
  # exponents than parabolas over the wide grids.
  off = {'akima': [], 'parabola': []}
  naive = []
  for config in list(targets.index[:5]):
    group = points[points['config'] == config]
    frame = group.rename(
      columns={'params': 'n', 'tokens': 'd', 'flops': 'c', 'loss': 'y'}
    )
    for method, errors in off.items():
      found = isoflop.isoflop(frame, method=method, replicates=0)
      errors.append(abs(found.exponent - targets.loc[config, 'a_weighted']))
    # Most budgets of two sets have no valid minimum: refused but for force.
    logs = frame.assign(y=np.log(frame['y']))
    naive.append(isoflop.isoflop(logs, replicates=0, force=True).exponent)
  assert max(off['akima']) < 0.01
  assert max(off['parabola']) > 0.05
  assert naive == pytest.approx([0.778, 0.740, 0.698, 0.569, 0.516], abs=5e-4)


@pytest.mark.parametrize(
  ('train_set', 'eta', 'floor', 'errors'),
  [
    ('rpj', 0.27285, 1.83665, {(1.44e9, 32): 0.71, (6.89e9, 1): 0.73}),
    ('rw_original', 0.25439, 1.73446, {(1.44e9, 16): 0.01, (6.89e9, 1): 1.62}),
    ('c4_original', 0.24247, 1.50826, {(1.44e9, 4): 1.50, (6.89e9, 1): 4.30}),
  ],
)
def test_t6_overtraining(scaling_data_dir, train_set, eta, floor, errors):
  data = pd.read_csv(scaling_data_dir / 'gadre_overtraining_104.csv')
  data = data[data['train_set'] == train_set]
  ladder = (data['chinchilla_mult'] == 1) & (data['params'] < 1e9)
  over = (data['chinchilla_mult'] == 16) & (data['params'] < 2e7)
  small = data[ladder | over]
  assert len(small) == 5
  found = fit.fit(
    forms.GADRE, surface_columns(small), small['loss_c4_val'],
    Objective('linear'), starts=50,
  )  # fmt: skip
  assert found.params['eta'] == pytest.approx(eta, abs=1e-5)
  assert found.params['E'] == pytest.approx(floor, abs=1e-5)
  for (params, mult), percent in errors.items():
    near = np.isclose(data['params'], params, rtol=0.01)
    row = data[near & (data['chinchilla_mult'] == mult)]
    assert len(row) == 1
    predicted = found.predict(surface_columns(row))
    error = 100 * abs(predicted / row['loss_c4_val'].to_numpy() - 1)
    assert error == pytest.approx(percent, abs=0.02)


def repeated(data):
  columns = surface_columns(data)
  columns['u'] = data['unique_tokens'].to_numpy(float)
  return nonlinear.repeat_form(REPEAT_BASE), columns


def test_t7_repetition_has_another_optimum(scaling_data_dir):
  data = pd.read_csv(scaling_data_dir / 'datablations_repeat_182.csv')
  form, columns = repeated(data)
  found = fit.fit(form, columns, data['loss'], starts=24)
  published = {'R_D': 15.387756, 'R_N': 5.309743}
  assert objective_at(found, published) == pytest.approx(0.01582594, rel=1e-6)
  assert found.value == pytest.approx(0.01580466, rel=1e-6)
  assert found.params['R_D'] == pytest.approx(95.4, abs=0.1)
  assert found.params['R_N'] == pytest.approx(1.71, abs=0.01)
  y = data['loss'].to_numpy()

  def r2(params):
    theta = form.to_theta(params, found.scale)
    log = form.bind(columns, found.scale).value(theta[None])[0]
    left = y - np.exp(log + found.scale.y)
    return 1 - np.sum(left**2) / np.sum((y - y.mean()) ** 2)

  assert r2(published) == pytest.approx(0.7722, abs=5e-5)
  assert r2(found.params) == pytest.approx(0.791, abs=5e-4)
  assert r2({'R_D': 1e12, 'R_N': 1e12}) == pytest.approx(0.445168, abs=2e-6)
  # The profile is flat: half a per cent of the objective spans a decade,
  # and the data set no upper limit at 95 %.
  curve = profile.profile(found, 'R_D', points=25)
  near = curve.values[curve.objective <= 1.005 * curve.objective.min()]
  assert near.min() < 25
  assert near.max() > 300
  assert curve.hi is None
  assert curve.lo < 15.4


@pytest.mark.slow
def test_t7_intervals_are_as_wide_as_found_before(scaling_data_dir):
  data = pd.read_csv(scaling_data_dir / 'datablations_repeat_182.csv')
  form, columns = repeated(data)
  found = fit.fit(form, columns, data['loss'], starts=24)
  refits = bootstrap.bootstrap(found, 1000, kind='runs').params
  low, high = np.percentile(refits['R_D'], [2.5, 97.5])
  assert low == pytest.approx(6.5, rel=0.15)
  assert high > 1e9
  low, high = np.percentile(refits['R_N'], [2.5, 97.5])
  assert low == pytest.approx(0.28, rel=0.15)
  assert high == pytest.approx(14, rel=0.15)


def test_t7_the_runs_of_up_to_60_epochs_know_even_less(scaling_data_dir):
  """R_D* = 2.26 is a local optimum there; the global one has no end."""
  data = pd.read_csv(scaling_data_dir / 'datablations_repeat_182.csv')
  data = data[data['epochs'] <= 60]
  assert len(data) == 129
  form, columns = repeated(data)
  near = fit.fit(
    form, columns, data['loss'],
    inits=np.log([[2.0, 100.0], [2.2, 120.0], [2.5, 150.0]]),
  )  # fmt: skip
  assert near.params['R_D'] == pytest.approx(2.26, abs=0.01)
  best = fit.fit(form, columns, data['loss'], starts=24)
  assert best.value < 0.98 * near.value
  assert best.params['R_D'] > 1e6


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


def test_t9_var_laws_against_an_independent_run(scaling_data_dir):
  run = pd.read_csv(scaling_data_dir / 'var_d16_val_curve.csv')
  last = run.iloc[-1]
  n = 73728 * 16**3
  mean = reference.law('var_l_mean_n').predict(n)
  assert mean == pytest.approx(last['loss_mean_val'] - 5.0, rel=0.015)
  for which in ('mean', 'last'):
    predicted = reference.law(f'var_err_{which}_n').predict(n)
    measured = 1 - last[f'acc_{which}_pct'] / 100
    assert predicted == pytest.approx(measured, rel=0.003)
  # The fourth law does not hold for this run, and the notes say so.
  law = reference.law('var_l_last_n')
  assert law.predict(n) > 1.25 * (last['loss_last_scale_val'] - 4.5)
  assert '.845' in law.notes


def test_t9_laws_are_those_of_the_paper(scaling_data_dir):
  rows = pd.read_csv(scaling_data_dir / 'var_paper_laws.csv')
  names = {'L_last': 'l_last', 'L_avg': 'l_mean', 'Err_last': 'err_last',
           'Err_avg': 'err_mean'}  # fmt: skip
  for row in rows.to_dict('records'):
    x = 'n' if row['variable'] == 'N' else 'c'
    law = reference.law(f'var_{names[row["metric"]]}_{x}')
    assert law.params == {'k': row['k'], 'exponent': row['exponent']}
  # N and C laws agree at depth 30 with C = N T and the labels swapped.
  n, t = 1.991e9, 305e9
  by_n = reference.law('var_err_mean_n').predict(n)
  by_c = reference.law('var_err_last_c').predict(n * t)
  assert by_n == pytest.approx(by_c, rel=0.002)

"""T0: exact synthetics, in closed form and recovered without noise."""

import numpy as np
import pandas as pd
import pytest

from varjax.scaling import fit, forms, isoflop, optimum, vpnls
from varjax.scaling.objective import Objective

SURFACE = {'E': 1.69, 'A': 406.4, 'B': 410.7, 'alpha': 0.34, 'beta': 0.28}


def sweep(params, size='n', width=10.0, runs=15):
  rows = []
  for c in np.logspace(17, 21, 5):
    n_best, d_best, _ = optimum.optimum(params, c)
    best = n_best if size == 'n' else d_best
    grid = best * np.geomspace(1 / width, width, runs)
    n = grid if size == 'n' else c / 6 / grid
    d = c / 6 / n
    rows += zip(n, d, [c] * runs, optimum.surface(params, n, d), strict=True)
  return pd.DataFrame(rows, columns=['n', 'd', 'c', 'y'])


@pytest.mark.parametrize(
  ('flops', 'n', 'd', 'loss'),
  [
    (1e19, 2.27956e8, 7.31136e9, 2.985741),
    (1e21, 1.82422e9, 9.13634e10, 2.328883),
    (5.76e23, 3.21899e10, 2.98231e12, 1.930748),
  ],
)
def test_optimum_in_closed_form(flops, n, d, loss):
  found = optimum.optimum(SURFACE, flops)
  np.testing.assert_allclose(found, (n, d, loss), rtol=3e-6)
  assert 6 * found[0] * found[1] == pytest.approx(flops, rel=1e-12)
  # It is the minimum of the surface along the budget.
  near = found[0] * np.array([0.99, 1.01])
  assert (optimum.surface(SURFACE, near, flops / 6 / near) > found[2]).all()


@pytest.mark.parametrize('method', ['huber', 'log', 'linear', 'vpnls'])
def test_noise_free_surface_is_recovered(method):
  data = sweep(SURFACE)
  columns = {'n': data['n'], 'd': data['d']}
  if method == 'vpnls':
    found = vpnls.fit_vpnls(forms.CHINCHILLA, columns, data['y'])
  else:
    found = fit.fit(
      forms.CHINCHILLA, columns, data['y'], Objective(method), starts=40
    )
  for name, value in SURFACE.items():
    assert found.params[name] == pytest.approx(value, rel=1e-7), name
  assert found.agreeing >= 3


@pytest.mark.parametrize(
  ('alpha', 'beta', 'biases', 'exponent'),
  [
    (0.34, 0.28, (-0.327, -1.301, -2.903, -5.100), 0.548387),
    (0.465, 0.155, (-1.675, -6.498, -13.910, -23.116), 0.75),
    (0.31, 0.31, (0.0, 0.0, 0.0, 0.0), 0.5),
  ],
)
def test_bias_of_the_parabola(alpha, beta, biases, exponent):
  params = {**SURFACE, 'alpha': alpha, 'beta': beta}
  for width, bias in zip((2, 4, 8, 16), biases, strict=True):
    data = sweep(params, size='d', width=width)
    found = isoflop.isoflop(data, size='d', replicates=0)
    true = optimum.optimum(params, 1e24)[1]
    percent = 100 * (found.predict(1e24) / true - 1)
    assert percent == pytest.approx(bias, abs=6e-4)
    assert found.exponent == pytest.approx(exponent, abs=1e-6)
    # What is reported beside a real analysis is this same bias.
    told = isoflop.asymmetry(found, params, 6.0)
    assert 100 * told['size_bias'] == pytest.approx(bias, abs=0.02)


def test_forms_with_planted_parameters():
  rng = np.random.default_rng(0)
  n = np.exp(rng.uniform(np.log(1e6), np.log(1e9), 60))
  d = n * np.exp(rng.uniform(np.log(2), np.log(200), 60))
  planted = {'alpha_n': 0.076, 'alpha_d': 0.103, 'Nc': 6.4e13, 'Dc': 1.8e13}
  y = (
    (planted['Nc'] / n) ** (planted['alpha_n'] / planted['alpha_d'])
    + planted['Dc'] / d
  ) ** planted['alpha_d']
  from varjax.scaling import nonlinear

  found = fit.fit(nonlinear.KAPLAN, {'n': n, 'd': d}, y, starts=30)
  for name, value in planted.items():
    assert found.params[name] == pytest.approx(value, rel=1e-4), name


def test_broken_power_law_finds_its_break():
  from varjax.scaling import nonlinear

  x = np.geomspace(1e5, 1e11, 40)
  planted = {
    'E': 1.0, 'b': 40.0, 'c0': 0.1, 'c1': 0.3, 'd1': 1e8, 'f1': 0.4,
  }  # fmt: skip
  y = 1.0 + 40.0 * x**-0.1 * (1 + (x / 1e8) ** (1 / 0.4)) ** (-0.3 * 0.4)
  found = fit.fit(nonlinear.BNSL, {'x': x}, y, Objective('log'), starts=20)
  np.testing.assert_allclose(found.predict({'x': x}), y, rtol=1e-5)
  for name, value in planted.items():
    assert found.params[name] == pytest.approx(value, rel=1e-2), name


def test_pinned_floor_is_the_reducible_loss():
  x = np.geomspace(1e7, 2e9, 8)
  y = 5.0 + (2.5e-9 * x) ** -0.20
  form = forms.pin_floor(forms.POWER, 5.0)
  found = fit.fit(form, {'x': x}, y, Objective('log'), starts=20)
  assert found.params['E'] == 5.0
  assert found.params['alpha'] == pytest.approx(0.20, rel=1e-8)
  other = fit.fit(forms.POWER_FLOOR, {'x': x}, y, Objective('log'), starts=20)
  assert other.params['E'] == pytest.approx(5.0, rel=1e-5)

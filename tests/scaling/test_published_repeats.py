"""T6 and T7: long and repeated training, from open data.

Over-training (Gadre et al., 2403.08540) and the value of repeated tokens
(Muennighoff et al., 2305.16264).
"""

import numpy as np
import pandas as pd
from published import objective_at, surface_columns
import pytest

from varjax.scaling import bootstrap, fit, forms, nonlinear, profile
from varjax.scaling.objective import Objective

REPEAT_BASE = {
  'A': np.exp(6.255414), 'B': np.exp(7.3049974), 'E': np.exp(0.6254804),
  'alpha': 0.3526596, 'beta': 0.3526596,
}  # fmt: skip


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

"""Backtests, frontiers and the agreement of methods on planted sweeps."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from varjax.scaling import (
  agreement,
  backtest,
  fit,
  forms,
  frontier,
  identify,
  isoflop,
  optimum,
  table_analysis,
)
from varjax.scaling.objective import Objective
from varjax.scaling.options import Options

SURFACE = {'E': 1.69, 'A': 406.4, 'B': 410.7, 'alpha': 0.34, 'beta': 0.28}


def ladder(noise, form='floor', seed=0):
  rng = np.random.default_rng(seed)
  n = np.geomspace(1e6, 1e9, 9)
  y = 2 * (form == 'floor') + 40 * n**-0.2
  y = y * np.exp(noise * rng.standard_normal(9))
  return pd.DataFrame(
    {
      'n': n, 'd': 1e9, 'c': 6e9 * n, 'y': y, 'role': 'fit',
      'run_id': [f'r{i}' for i in range(9)], 'name': None,
    }
  )  # fmt: skip


def test_the_largest_are_predicted_from_the_smaller():
  found = backtest.leave_largest_out(
    forms.POWER_FLOOR, ladder(1e-3), {'x': 'n'}, Objective('log')
  )
  assert [r['dropped'] for r in found['rows']] == [1, 2, 3]
  assert [r['run_id'] for r in found['rows']] == ['r8', 'r7', 'r6']
  assert found['mean_abs_error'] < 0.01
  assert found['coverage'] == 1.0
  assert found['extrapolation'] == pytest.approx(1000 ** (1 / 8))


def test_a_wrong_form_fails_its_backtest():
  """Without the floor that the data have, predictions are too low."""
  wrong = backtest.leave_largest_out(
    forms.POWER, ladder(1e-4), {'x': 'n'}, Objective('log')
  )
  right = backtest.leave_largest_out(
    forms.POWER_FLOOR, ladder(1e-4), {'x': 'n'}, Objective('log')
  )
  assert wrong['mean_abs_error'] > 10 * right['mean_abs_error']
  assert all(row['error'] < 0 for row in wrong['rows'])


def test_too_few_runs_have_no_backtest():
  few = ladder(0.0).iloc[:4]
  assert (
    backtest.leave_largest_out(
      forms.POWER_FLOOR, few, {'x': 'n'}, Objective('log')
    )
    is None
  )


def curves(sizes=10, evals=60):
  rows = []
  for i, n in enumerate(np.geomspace(1e6, 1e10, sizes)):
    d = n * np.geomspace(0.3, 3000, evals)
    rows += [(f'r{i}', n, 6 * n * t, optimum.surface(SURFACE, n, t)) for t in d]
  return pd.DataFrame(rows, columns=['run_id', 'n', 'c', 'y'])


def test_envelope_has_the_exponents_of_the_surface():
  edge = frontier.envelope(curves())
  split = optimum.exponents(SURFACE)
  inside = edge.used & (edge.c > 1e16) & (edge.c < 1e21)
  best = optimum.optimum(SURFACE, edge.c[inside])[2]
  # Ten sizes over four decades leave the envelope a little above the best.
  assert (edge.loss[inside] >= best * (1 - 1e-4)).all()
  np.testing.assert_allclose(edge.loss[inside], best, rtol=0.01)
  found = fit.fit(
    forms.POWER_FLOOR, {'x': edge.c[inside]}, edge.loss[inside],
    Objective('log'), starts=30, distinct=edge.runs_on_it,
  )  # fmt: skip
  assert found.params['alpha'] == pytest.approx(split['gamma'], abs=0.01)
  assert frontier.size_exponent(edge) == pytest.approx(split['a'], abs=0.06)
  boot = frontier.bootstrap_runs(
    fit.fit(
      forms.POWER_FLOOR, {'x': edge.c[edge.used]}, edge.loss[edge.used],
      Objective('log'), starts=30,
    ), edge, 60, 0,
  )  # fmt: skip
  assert len(boot.theta) + boot.failed == 60
  assert boot.kind == 'clusters'


def test_envelope_needs_runs_that_hand_over():
  with pytest.raises(identify.TooFewPoints, match='3 runs or more'):
    frontier.envelope(curves(sizes=2))
  apart = curves(sizes=4)
  # Three copies of the best run, each worse than it everywhere.
  best = apart[apart['run_id'] == 'r0']
  same = pd.concat(
    [best.assign(run_id=f'k{i}', y=best['y'] + i) for i in range(4)]
  )
  with pytest.raises(identify.TooFewPoints, match='envelope'):
    frontier.envelope(same)


def test_methods_agree_on_a_planted_isoflop_sweep():
  rng = np.random.default_rng(0)
  rows = []
  for c in np.logspace(18, 21, 5):
    n = optimum.optimum(SURFACE, c)[0] * np.geomspace(0.25, 4, 9)
    y = optimum.surface(SURFACE, n, c / 6 / n)
    y = y * np.exp(5e-4 * rng.standard_normal(9))
    rows += zip(n, c / 6 / n, [c] * 9, y, strict=True)
  frame = pd.DataFrame(rows, columns=['n', 'd', 'c', 'y']).assign(role='fit')
  found = agreement.compare([], frame, None, Options(bootstrap=100))
  rows = {row['method']: row for row in found['agreement']}
  true = optimum.exponents(SURFACE)['a']
  for method in ('parametric (huber)', 'parametric (vpnls)',
                 'isoFLOP (parabola)'):  # fmt: skip
    assert rows[method]['a'] == pytest.approx(true, abs=0.03), method
  parabola = rows['isoFLOP (parabola)']
  assert parabola['lo'] < parabola['a'] < parabola['hi']
  assert 'asymmetry' in parabola['note']
  assert found['isoflop']['asymmetry']['size_bias'] != 0
  assert 0 < found['agreement_spread'] < 0.1
  assert all(b['status'] == 'used' for b in found['isoflop']['budgets'])
  # The smaller budgets would have found the minima of the larger ones.
  made = isoflop.isoflop(frame, replicates=0)
  tested = backtest.leave_largest_budget_out(made)
  assert [r['dropped'] for r in tested['rows']] == [1, 2]
  assert tested['coverage'] == 1.0
  assert tested['mean_abs_error'] < 0.1
  assert tested['rows'][0]['c'] == pytest.approx(1e21)
  assert tested['extrapolation'] == pytest.approx(10**0.75)
  few = dataclasses.replace(made, budgets=made.budgets[:3])
  assert backtest.leave_largest_budget_out(few) is None
  bent = [dataclasses.replace(b, best=b.best + 2) for b in made.budgets[-1:]]
  bent = dataclasses.replace(made, budgets=(*made.budgets[:-1], *bent))
  assert not backtest.leave_largest_budget_out(bent)['rows'][0]['inside']


def test_repeated_data_are_reported_with_their_profiles():
  base = {'E': 1.87, 'A': 521.0, 'B': 1488.0, 'alpha': 0.353, 'beta': 0.353}
  from varjax.scaling import nonlinear

  form = nonlinear.repeat_form(base)
  n, u, epochs = (
    v.ravel() for v in np.meshgrid([1e8, 1e9, 4e9], [1e9, 1e10], [1, 4, 16, 60])
  )
  d = u * epochs
  columns = {'n': n, 'd': d, 'u': u}
  scale = forms.scale_of(columns, np.full(len(n), 3.0))
  theta = form.to_theta({'R_D': 12.0, 'R_N': 6.0}, scale)
  y = np.exp(form.bind(columns, scale).value(theta[None])[0] + scale.y)
  frame = pd.DataFrame({**columns, 'y': y})
  options = Options(base=base, starts=12, bootstrap=0, backtest=False)
  names = {'n': 'n', 'd': 'd', 'u': 'u', 'y': 'y'}
  found = table_analysis.analyse_table(frame, names, 'repeat', options)
  assert found['params']['R_D'] == pytest.approx(12.0, rel=1e-4)
  assert found['params']['R_N'] == pytest.approx(6.0, rel=1e-4)
  assert set(found['profiles']) == {'R_D', 'R_N'}

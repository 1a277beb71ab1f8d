"""Properties that hold for any table of runs."""

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pandas as pd
import pytest

from varjax import errors
from varjax.scaling import fit, forms, optimum, result, table_analysis
from varjax.scaling.objective import Objective
from varjax.scaling.options import Options

QUICK = settings(max_examples=8, deadline=None, derandomize=True)
SURFACES = st.fixed_dictionaries(
  {
    'E': st.floats(0.5, 4.0),
    'alpha': st.floats(0.2, 0.6),
    'beta': st.floats(0.2, 0.6),
    'share_n': st.floats(0.1, 2.0),
    'share_d': st.floats(0.1, 2.0),
  }
)


def plant(drawn, seed, noise=0.0, runs=40):
  """Runs of a surface whose terms have the given sizes at the centre."""
  rng = np.random.default_rng(seed)
  n = np.exp(rng.uniform(math.log(1e6), math.log(1e9), runs))
  d = np.exp(rng.uniform(math.log(1e8), math.log(1e11), runs))
  params = {
    'E': drawn['E'], 'alpha': drawn['alpha'], 'beta': drawn['beta'],
    'A': drawn['share_n'] * 3e7 ** drawn['alpha'],
    'B': drawn['share_d'] * 3e9 ** drawn['beta'],
  }  # fmt: skip
  y = optimum.surface(params, n, d)
  return params, n, d, y * np.exp(noise * rng.standard_normal(runs))


@QUICK
@given(SURFACES, st.integers(0, 9999))
def test_planted_surfaces_are_recovered(drawn, seed):
  params, n, d, y = plant(drawn, seed)
  found = fit.fit(forms.CHINCHILLA, {'n': n, 'd': d}, y, starts=24)
  for name, value in params.items():
    assert found.params[name] == pytest.approx(value, rel=1e-4), name


@QUICK
@given(
  SURFACES, st.integers(0, 9999), st.floats(-9, 9), st.floats(-12, 12),
  st.floats(-3, 3), st.sampled_from(['huber', 'log', 'linear']),
)  # fmt: skip
def test_units_change_nothing(drawn, seed, log_n, log_d, log_y, kind):
  _, n, d, y = plant(drawn, seed, noise=0.01)
  un, ud, uy = 10**log_n, 10**log_d, 10**log_y
  first = fit.fit(
    forms.CHINCHILLA, {'n': n, 'd': d}, y, Objective(kind), starts=24
  )
  other = fit.fit(
    forms.CHINCHILLA, {'n': n * un, 'd': d * ud}, y * uy, Objective(kind),
    starts=24,
  )  # fmt: skip
  a, b = first.params, other.params
  assert b['alpha'] == pytest.approx(a['alpha'], rel=1e-4)
  assert b['beta'] == pytest.approx(a['beta'], rel=1e-4)
  assert b['E'] == pytest.approx(a['E'] * uy, rel=1e-4)
  assert b['A'] == pytest.approx(a['A'] * uy * un ** a['alpha'], rel=3e-2)
  factor = uy**2 if kind == 'linear' else 1.0
  assert other.value == pytest.approx(first.value * factor, rel=1e-6)
  moved = other.predict({'n': n * un, 'd': d * ud})
  here = first.predict({'n': n, 'd': d})
  np.testing.assert_allclose(moved, here * uy, rtol=1e-5)


@QUICK
@given(SURFACES, st.integers(0, 9999), st.randoms(use_true_random=False))
def test_row_order_changes_nothing(drawn, seed, random):
  _, n, d, y = plant(drawn, seed, noise=0.01)
  order = list(range(len(y)))
  random.shuffle(order)
  first = fit.fit(forms.CHINCHILLA, {'n': n, 'd': d}, y, starts=12)
  other = fit.fit(
    forms.CHINCHILLA, {'n': n[order], 'd': d[order]}, y[order], starts=12
  )
  assert first.params == other.params
  assert first.value == other.value


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
  st.lists(
    st.tuples(
      st.sampled_from([1e5, 1e6, 3e6, 1e7, 1e8, 0.0, float('nan')]),
      st.sampled_from([1e8, 1e9, 1e10]),
      st.one_of(st.floats(1.0, 8.0), st.just(float('inf'))),
    ),
    min_size=0, max_size=12,
  ),
  st.sampled_from(['chinchilla', 'power', 'power_floor', 'gadre']),
  st.booleans(),
)  # fmt: skip
def test_never_a_nan(rows, form, force):
  """Any table ends in a refusal or in a result without a NaN."""
  frame = pd.DataFrame(rows, columns=['n', 'd', 'loss'])
  options = Options(starts=6, bootstrap=20, force=force)
  columns = {'n': 'n', 'd': 'd', 'y': 'loss'}
  try:
    found = table_analysis.analyse_table(frame, columns, form, options)
  except errors.VarjaxError:
    return
  text = json.dumps(found, allow_nan=False)
  assert result.clean(json.loads(text)) == json.loads(text)
  numbers = [v for v in found['params'].values() if v is not None]
  assert len(numbers) == len(found['params'])
  assert np.isfinite(numbers).all()

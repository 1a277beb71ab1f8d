"""The JAX back end of the bootstrap takes the steps of the NumPy one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import errors
from varjax.scaling import bootstrap, fit, forms, newton, newton_jax, nonlinear
from varjax.scaling.objective import Objective
from varjax.scaling.options import Options

SURFACE = {'E': 1.69, 'A': 406.4, 'B': 410.7, 'alpha': 0.34, 'beta': 0.28}


@pytest.fixture(scope='module')
def runs():
  rng = np.random.default_rng(0)
  n = np.exp(rng.uniform(np.log(1e7), np.log(1e10), 60))
  d = np.exp(rng.uniform(np.log(1e9), np.log(1e12), 60))
  y = 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28
  return {'n': n, 'd': d}, y * np.exp(0.003 * rng.standard_normal(60))


def problem_of(form, columns, y, kind, replicates, seed=0):
  scale = forms.scale_of(columns, y)
  weights = np.random.default_rng(seed).multinomial(
    len(y), np.full(len(y), 1 / len(y)), size=replicates
  )
  made = fit.problem_of(form, columns, y, Objective(kind), weights, scale)
  return made, scale


@pytest.mark.parametrize('kind', ['huber', 'log', 'linear'])
def test_same_optima_of_resampled_surfaces(runs, kind):
  columns, y = runs
  problem, scale = problem_of(forms.CHINCHILLA, columns, y, kind, 70)
  start = forms.CHINCHILLA.to_theta(SURFACE, scale)
  starts = np.repeat(start[None], 70, axis=0)
  ours = newton.minimise(problem, starts)
  theirs = newton_jax.minimise(problem, starts)
  assert theirs.theta.dtype == np.float64
  np.testing.assert_allclose(theirs.value, ours.value, rtol=1e-11)
  np.testing.assert_allclose(theirs.theta, ours.theta, rtol=0, atol=1e-6)
  assert (theirs.converged == ours.converged).all()
  assert (theirs.moved == ours.moved).all()


def test_same_optima_of_a_form_by_automatic_differentiation():
  """Kaplan's form, from starts that are far from the optimum."""
  rng = np.random.default_rng(1)
  n = np.exp(rng.uniform(np.log(1e6), np.log(1e9), 30))
  d = n * np.exp(rng.uniform(np.log(2), np.log(200), 30))
  y = ((6.4e13 / n) ** (0.076 / 0.103) + 1.8e13 / d) ** 0.103
  y = y * np.exp(1e-3 * rng.standard_normal(30))
  columns = {'n': n, 'd': d}
  problem, _ = problem_of(nonlinear.KAPLAN, columns, y, 'log', 16)
  starts = nonlinear.KAPLAN.starts(columns, y, rng, 16)
  ours = newton.minimise(problem, starts, 400)
  theirs = newton_jax.minimise(problem, starts, 400)
  np.testing.assert_allclose(theirs.value, ours.value, rtol=1e-6)


def test_bootstraps_agree_and_nothing_else_turns_to_64_bits(runs):
  columns, y = runs
  found = fit.fit(forms.CHINCHILLA, columns, y, Objective('log'), starts=12)
  before = jax.config.jax_enable_x64
  first, other = (
    bootstrap.bootstrap(found, 40, kind='runs', seed=3, backend=backend)
    for backend in bootstrap.BACKENDS
  )
  assert (first.backend, other.backend) == ('numpy', 'jax')
  assert first.failed == other.failed == 0
  for name, values in first.params.items():
    np.testing.assert_allclose(other.params[name], values, rtol=1e-5)
  assert jax.config.jax_enable_x64 == before
  assert jnp.ones(1).dtype == jnp.float32


def test_no_problem_and_no_finite_start_are_no_error(runs):
  columns, y = runs
  problem, scale = problem_of(forms.CHINCHILLA, columns, y, 'log', 2)
  none = newton_jax.minimise(problem.take(np.arange(0)), np.zeros((0, 5)))
  assert none.theta.shape == (0, 5)
  start = forms.CHINCHILLA.to_theta(SURFACE, scale)
  broken = dataclasses.replace(problem, weights=problem.weights * np.nan)
  found = newton_jax.minimise(broken, np.stack([start, start]))
  assert not np.isfinite(found.value).any()


def test_unknown_back_ends_are_refused():
  with pytest.raises(errors.ConfigError, match='numpy, jax'):
    bootstrap.minimiser('torch')
  with pytest.raises(errors.ConfigError, match='numpy, jax'):
    Options(bootstrap_backend='torch')

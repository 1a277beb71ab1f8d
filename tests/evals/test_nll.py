"""Likelihoods and their reductions, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax.evals import nll


@pytest.fixture(scope='module')
def data():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (3, 5, 2, 7)).astype(np.float32)
  return jnp.asarray(logits), jnp.asarray(rng.integers(0, 7, (3, 5, 2)))


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy(data, smoothing):
  logits, targets = data
  log_p = np.asarray(jax.nn.log_softmax(logits))
  mass = (1 - smoothing) * np.eye(7)[targets] + smoothing / 7
  expected = -(mass * log_p).sum((-1, -2))
  found = nll.cross_entropy(logits, targets, smoothing)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gradient_is_softmax_minus_target(data):
  logits, targets = data
  found = jax.grad(lambda x: nll.cross_entropy(x, targets).sum())(logits)
  expected = np.asarray(jax.nn.softmax(logits)) - np.eye(7)[targets]
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_wrong_counts_each_code(data):
  logits = data[0]
  top = np.array(jnp.argmax(logits, -1))
  assert not nll.wrong(logits, jnp.asarray(top)).any()
  one_off = top.copy()
  one_off[:, :, 0] = (one_off[:, :, 0] + 1) % 7
  np.testing.assert_allclose(nll.wrong(logits, jnp.asarray(one_off)), 0.5)


def test_reductions():
  values = jnp.asarray([[1.0, 2.0, 4.0], [3.0, 0.0, 1.0]])
  found = nll.by_scale(values, (1, 2))
  np.testing.assert_allclose(found, [[1.0, 3.0], [3.0, 0.5]])
  mask = jnp.asarray([True, False])
  assert nll.batch_mean(values[:, 0], mask) == 1
  assert nll.batch_mean(values[:, 0]) == 2
  assert nll.batch_mean(values[:, 0], jnp.zeros(2)) == 0

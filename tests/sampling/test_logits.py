"""Filters and guidance against direct definitions."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from varjax.sampling import logits, smooth


def _rows(seed):
  return np.random.default_rng(seed).normal(0, 2, (3, 12)).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(1, 14))
def test_top_k_keeps_the_largest(seed, count):
  rows = _rows(seed)
  kept = np.asarray(logits.top_k(jnp.asarray(rows), count)) > -np.inf
  for row, mask in zip(rows, kept, strict=True):
    assert set(row[mask]) == set(np.sort(row)[-count:])


def test_top_k_keeps_ties():
  row = jnp.asarray([1.0, 3.0, 2.0, 2.0, 0.0])
  kept = logits.top_k(row, 2) > -jnp.inf
  np.testing.assert_array_equal(kept, [False, True, True, True, False])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.floats(0.05, 1.0))
def test_top_p_keeps_the_smallest_sufficient_set(seed, mass):
  rows = _rows(seed)
  kept = np.asarray(logits.top_p(jnp.asarray(rows), mass)) > -np.inf
  for row, mask in zip(rows, kept, strict=True):
    p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    order = np.argsort(row)
    tail = np.cumsum(p[order])
    expected = tail > 1 - mass
    expected[-1] = True
    near = np.abs(tail - (1 - mass)) < 1e-5
    np.testing.assert_array_equal((mask[order] == expected) | near, True)


def test_filters_switch_off_at_zero():
  rows = jnp.asarray(_rows(0))
  assert logits.top_k(rows, 0) is rows
  assert logits.top_p(rows, 0.0) is rows


@pytest.mark.parametrize(
  ('step', 'steps', 'expected'), [(0, 10, 0), (9, 10, 1), (3, 4, 1), (0, 1, 1)]
)
def test_guidance_ratio(step, steps, expected):
  assert logits.ratio(step, steps) == expected


def test_guidance_moves_away_from_unconditional():
  cond, uncond = jnp.asarray([1.0, 2.0]), jnp.asarray([0.0, 4.0])
  np.testing.assert_allclose(logits.guide(cond, uncond, 0.0), cond)
  np.testing.assert_allclose(logits.guide(cond, uncond, 1.5), [2.5, -1.0])


def test_mixture_ignores_filtered_codes_and_sharpens():
  values = jnp.asarray([[[1.0, 0.5, -jnp.inf]]])
  soft = smooth.mixture(values, jnp.zeros((1, 1, 3)), 0.0)
  sharp = smooth.mixture(values, jnp.zeros((1, 1, 3)), 1.0)
  expected = 1 / (1 + np.exp(-0.5 / 0.27))
  np.testing.assert_allclose(soft[0, 0], [expected, 1 - expected, 0], rtol=1e-5)
  assert sharp[0, 0, 0] > 0.999

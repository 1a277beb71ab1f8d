"""Bisected thresholds against sorting, on rows with ties and extremes."""

import hypothesis
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import sorted_filters

from varjax.sampling import bisection, logits

_WIDTH = 11  # Not a whole number of digits of the index.
_EXTREMES = (
  -np.inf, -3.4e38, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, 1.0000001, 80.0, 3.4e38
)  # fmt: skip
_few_values = st.lists(st.integers(-2, 2), min_size=_WIDTH, max_size=_WIDTH)
_extremes = st.lists(
  st.one_of(st.sampled_from(_EXTREMES), st.floats(-9, 9, width=32)),
  min_size=_WIDTH,
  max_size=_WIDTH,
)
_rows = st.one_of(_few_values, _extremes).map(
  lambda row: np.asarray(row, np.float32)
)
_top_k = jax.jit(logits.top_k, static_argnums=1)
_top_p = jax.jit(logits.top_p, static_argnums=1)


@hypothesis.settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(_EXTREMES), min_size=2, max_size=2))
def test_integers_have_the_order_of_the_floats(pair):
  # 1e-45 is subnormal, which a CPU may take for zero: so may we.
  a, b = np.asarray(pair, np.float32)
  keys = np.asarray(bisection.ordered(jnp.asarray([a, b])))
  tiny = np.abs([a, b]) < np.finfo(np.float32).tiny
  if not tiny.any():
    assert (keys[0] < keys[1]) == (a < b)
    assert (keys[0] == keys[1]) == (a == b)
  elif not tiny.all():
    assert (keys[0] < keys[1]) == (a < b)


@hypothesis.settings(deadline=None, max_examples=60)
@given(_rows, st.sampled_from((1, 3, 10)))
def test_top_k_is_the_sorted_one(row, count):
  hypothesis.assume(np.any(row > -np.inf))
  found = _top_k(row, count)
  np.testing.assert_array_equal(found, sorted_filters.top_k(row, count))


@hypothesis.settings(deadline=None, max_examples=100)
@given(_rows, st.sampled_from((0.05, 0.5, 0.96, 1.0)))
def test_top_p_is_the_sorted_one(row, mass):
  hypothesis.assume(np.any(row > -np.inf))
  found = np.asarray(_top_p(row, mass))
  expected = np.asarray(sorted_filters.top_p(row, mass))
  cumulative, order = map(np.asarray, sorted_filters.cumulate(row))
  # The two add in another order: what is as near to the edge may differ.
  near = np.abs(cumulative - (1 - mass)) < 1e-6
  sure = np.ones(_WIDTH, bool)
  sure[order[near]] = False
  np.testing.assert_array_equal(found[sure], expected[sure])
  assert np.any(found > -np.inf)


def test_equal_logits_go_by_index_as_far_as_the_tail_has_room():
  row = jnp.asarray([2.0, 0.0, 0.0, 0.0, 0.0])
  # e^2 and four ones: each of the equal ones has probability .0878.
  cases = {
    0.95: [1, 1, 1, 1, 1],
    0.90: [1, 0, 1, 1, 1],
    0.75: [1, 0, 0, 1, 1],
    0.60: [1, 0, 0, 0, 0],
  }
  for mass, kept in cases.items():
    expected = sorted_filters.top_p(row, mass) > -jnp.inf
    np.testing.assert_array_equal(expected, np.asarray(kept, bool))
    np.testing.assert_array_equal(logits.top_p(row, mass) > -jnp.inf, expected)
  even = logits.top_p(jnp.zeros(8), 0.5) > -jnp.inf
  np.testing.assert_array_equal(even, np.arange(8) >= 4)


def test_a_row_of_the_official_vocabulary():
  rows = np.random.default_rng(0).normal(0, 3, (5, 4096)).astype(np.float32)
  kept = jax.jit(lambda x: logits.top_p(logits.top_k(x, 900), 0.96))(rows)
  expected = sorted_filters.top_p(sorted_filters.top_k(rows, 900), 0.96)
  np.testing.assert_array_equal(kept, expected)


def test_one_code_alone_is_kept():
  row = jnp.asarray([[-3.0]])
  np.testing.assert_array_equal(logits.top_p(row, 0.5), row)
  np.testing.assert_array_equal(logits.top_k(row, 1), row)

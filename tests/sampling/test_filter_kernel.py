"""The kernel of the filters, interpreted, against other ways to filter."""

import functools

import gpu_program
import hypothesis
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sorted_filters

from varjax import sharding, spec
from varjax.models import attention
from varjax.sampling import filter_kernel, filters

_ROWS, _WIDTH = 5, 11  # Neither is a power of two.
_EXTREMES = (-np.inf, -3.4e38, -1.0, -0.0, 0.0, 1.0, 1.0000001, 80.0)
_row = st.lists(
  st.one_of(
    st.integers(-2, 2).map(float),
    st.sampled_from(_EXTREMES),
    st.floats(-9, 9, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30),
  ),
  min_size=_WIDTH,
  max_size=_WIDTH,
).filter(lambda row: max(row) > -np.inf)
_rows = st.lists(_row, min_size=_ROWS, max_size=_ROWS).map(
  lambda rows: np.asarray(rows, np.float32).reshape(1, _ROWS, 1, _WIDTH)
)


@functools.cache
def _pair(count, mass):
  """The kernel and the plain path, compiled, without guidance."""
  kernel = functools.partial(filter_kernel.drawable, interpret=True)
  return tuple(
    jax.jit(lambda x, f=f: f(x, None, 0.0, count, mass))
    for f in (kernel, filters.plain)
  )


@hypothesis.settings(deadline=None, max_examples=60)
@given(_rows, st.sampled_from(((3, 0.0), (0, 0.5), (3, 0.8), (20, 1.0))))
def test_rows_with_ties_and_extremes(rows, case):
  kernel, plain = _pair(*case)
  found = np.asarray(kernel(rows))
  np.testing.assert_array_equal(found[found > -np.inf], rows[found > -np.inf])
  cumulative, order = map(np.asarray, sorted_filters.cumulate(rows))
  sure = np.ones(rows.shape, bool)
  # Sums in another order: what is as near to the edge may differ.
  near = np.abs(cumulative - (1 - case[1])) < 1e-6
  np.put_along_axis(sure, order, ~near | (case[1] == 0), axis=-1)
  for expected in (plain(rows), _sorted(rows, *case)):
    np.testing.assert_array_equal(found[sure], np.asarray(expected)[sure])


def _sorted(rows, count, mass):
  rows = sorted_filters.top_k(rows, count) if count else jnp.asarray(rows)
  return sorted_filters.top_p(rows, mass) if mass else rows


@pytest.mark.parametrize('shape', [(2, 3, 1, 4096), (1, 7, 2, 100)])
@pytest.mark.parametrize('guided', [False, True])
def test_drawn_codes_are_those_of_the_plain_path(shape, guided):
  rng = np.random.default_rng(0)
  yes, no = rng.normal(0, 0.7, (2, *shape)).astype(np.float32)
  count, other = shape[-1] // 5, no if guided else None

  @functools.partial(jax.jit, static_argnums=0)
  def draw(function, strength, key):
    kept = function(yes, other, strength, count, 0.96)
    return kept, jax.random.categorical(key, kept)

  kernel = functools.partial(filter_kernel.drawable, interpret=True)
  found, expected = (
    draw(f, 1.5, jax.random.key(3)) for f in (kernel, filters.plain)
  )
  np.testing.assert_array_equal(found[0], expected[0])
  np.testing.assert_array_equal(found[1], expected[1])
  kept = np.sum(np.asarray(found[0]) > -np.inf, axis=-1)
  assert np.all((kept > 1) & (kept < count))


def test_each_device_filters_its_own_images():
  logits = np.random.default_rng(1).normal(0, 2, (8, 2, 1, 16))
  logits = logits.astype(np.float32)
  mesh = sharding.make_mesh(spec.MeshSpec(data=8))

  @jax.jit
  def run(logits):
    return filter_kernel.drawable(logits, None, 0.0, 5, 0.9, interpret=True)

  with jax.set_mesh(mesh):
    assert not filters.fits(jnp.asarray(logits))  # Not on a CPU.
    found = run(logits)
  assert len(found.sharding.device_set) == 8
  expected = filters.plain(jnp.asarray(logits), None, 0.0, 5, 0.9)
  np.testing.assert_array_equal(found, expected)


def test_the_choice_is_by_platform_and_width(monkeypatch):
  monkeypatch.setattr(attention, 'target_platform', lambda: 'gpu')
  of = lambda *shape: jnp.zeros((1, 1, 1, *shape))  # noqa: E731
  assert filters.fits(of(4096))
  assert not filters.fits(of(filters.MOST_VALUES + 1))
  assert not filters.fits(of(64).astype(jnp.bfloat16))
  calls = []
  monkeypatch.setattr(
    filter_kernel, 'drawable', lambda *given: calls.append(given) or given[0]
  )
  filters.drawable(of(64), None, 0.0, 0, 0.0)
  assert not calls  # Nothing to filter: guidance is an operation of its own.
  filters.drawable(of(64), None, 0.0, 0, 0.5)
  assert len(calls) == 1


@pytest.mark.parametrize('values', [64, 4096, filters.MOST_VALUES])
def test_the_kernel_lowers_for_a_gpu(values):
  logits = jax.ShapeDtypeStruct((2, 9, 1, values), jnp.float32)
  strength = jax.ShapeDtypeStruct((), jnp.float32)

  def program(yes, no, strength):
    return filters.drawable(yes, no, strength, values // 4, 0.96)

  text = gpu_program.lowered(program, logits, logits, strength)
  assert text.count('@__gpu$xla.gpu.triton') == 1
  assert 'filter_rows' in text
  assert 'while' not in text

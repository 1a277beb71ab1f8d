"""Parameter groups: own optimisers, own start; and averaged weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import averaging, groups, optim
from varjax import spec as specs

LENGTHS = {'total_steps': 6, 'batch_size': 4}
GROUPS = {
  groups.MAIN: groups.Group(specs.OptimSpec(lr=0.1), warmup=2),
  'other': groups.Group(
    specs.OptimSpec(lr=0.3, weight_decay=0.5, clip_norm=0.1), first=2
  ),
}
NUMBERS = groups.numbers_of(GROUPS, **LENGTHS)


def _plain(spec, **lengths):
  return optim.make_optimizer(spec, optim.numbers_of(spec, **lengths))


def _params():
  draw = np.random.default_rng(0).normal
  return {
    'a': {'kernel': jnp.asarray(draw(size=(2, 3)), jnp.float32)},
    'b': {'bias': jnp.asarray(draw(size=3), jnp.float32)},
    'other': {'kernel': jnp.asarray(draw(size=(3, 2)), jnp.float32)},
  }


def _assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_split_and_join_are_inverse():
  params = _params()
  parts = groups.split(params, GROUPS)
  assert set(parts['main']) == {'a', 'b'}
  assert parts['other'] is params['other']
  _assert_equal(groups.join(parts), params)
  assert groups.join(groups.split(params, ['main'])) is params


def test_one_group_is_the_plain_optimiser():
  only = {groups.MAIN: GROUPS[groups.MAIN]}
  params, grads = _params(), jax.tree.map(jnp.ones_like, _params())
  joined = groups.make_optimizer(only, groups.numbers_of(only, **LENGTHS))
  plain = _plain(only['main'].optim, warmup_steps=2, **LENGTHS)
  _assert_equal(joined.init(params), plain.init(params))
  _assert_equal(
    joined.update(grads, joined.init(params), params),
    plain.update(grads, plain.init(params), params),
  )


def test_each_group_follows_its_own_optimiser():
  params = _params()
  tx = groups.make_optimizer(GROUPS, NUMBERS)
  alone = {
    'main': _plain(GROUPS['main'].optim, warmup_steps=2, **LENGTHS),
    # Its schedule is over what is left of the run.
    'other': _plain(
      GROUPS['other'].optim, warmup_steps=0, total_steps=4, batch_size=4
    ),
  }
  state = tx.init(params)
  states = {
    name: alone[name].init(part)
    for name, part in groups.split(params, GROUPS).items()
  }
  for scale in (1.0, -3.0, 0.5):
    grads = jax.tree.map(lambda p, s=scale: s * p, params)
    moves, state = tx.update(grads, state, params)
    expected = {}
    for name, part in groups.split(grads, GROUPS).items():
      expected[name], states[name] = alone[name].update(
        part, states[name], groups.split(params, GROUPS)[name]
      )
    _assert_equal(moves, groups.join(expected))
    _assert_equal(state, states)


def test_a_group_that_is_not_active_stands_still():
  params = _params()
  tx = groups.make_optimizer(GROUPS, NUMBERS, active=['main'])
  state = tx.init(params)
  moves, after = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
  assert not np.any(moves['other']['kernel'])
  assert np.all(moves['a']['kernel'])
  _assert_equal(after['other'], state['other'])
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_moments_keep_logical_axes():
  boxed = {
    **_params(),
    'other': {'kernel': nn.LogicallyPartitioned(jnp.zeros((3, 2)), 'ab')},
  }
  state = groups.make_optimizer(GROUPS, NUMBERS).init(boxed)
  names = [
    leaf.names
    for leaf in jax.tree.leaves(
      state, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )
    if isinstance(leaf, nn.LogicallyPartitioned)
  ]
  assert names == ['ab', 'ab']  # both moments


def test_rates_begin_with_the_group():
  assert set(groups.rates(GROUPS, 1, **LENGTHS)) == {'lr', 'weight_decay'}
  rates = groups.rates(GROUPS, 2, **LENGTHS)
  assert rates['lr_other'] == pytest.approx(0.3)
  assert rates['weight_decay_other'] == 0.5


def test_average_is_the_ramped_recursion():
  """Written out in float64: d = min(decay, (n + 1) / (n + 10))."""
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(30, 3))
  average = {'w': jnp.zeros(3)}
  expected = np.zeros(3)
  for step, row in enumerate(weights):
    decay = min(0.6, (step // 2 + 1) / (step // 2 + 10))
    expected = decay * expected + (1 - decay) * row
    params = {'w': jnp.asarray(row, jnp.float32), 'left out': jnp.ones(2)}
    average = averaging.average(average, params, jnp.int32(step), 0.6)
  np.testing.assert_allclose(average['w'], expected, rtol=1e-5)
  assert averaging.average(None, {}, jnp.int32(0), 0.6) is None

"""The next-scale order on square, rectangular and large first scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax.errors import ConfigError
from varjax.orders import ORDERS, make_order
from varjax.orders.base import Choice
from varjax.spec import OrderSpec, TokenizerSpec
from varjax.tokenizers import msvq

SCALES = [
  (1, 2, 3),
  (2, 3),
  ((1, 1), (2, 1), (3, 2)),
  (3,),
]


def make_quantizer(spec):
  rng = np.random.default_rng(0)
  phi = (2, 3, 3, spec.code_dim, spec.code_dim)
  return msvq.Quantizer(
    jnp.asarray(rng.normal(0, 1, (spec.vocab, spec.code_dim)), jnp.float32),
    jnp.asarray(rng.normal(0, 0.3, phi), jnp.float32),
    jnp.asarray(rng.normal(0, 0.3, phi[:1] + phi[-1:]), jnp.float32),
    grids=spec.grids,
    phi_count=2,
  )


@pytest.mark.parametrize('scales', SCALES)
def test_generation_steps_retrace_the_teacher(scales):
  spec = TokenizerSpec(code_dim=4, vocab=7, scales=scales, phi_count=2)
  order = make_order(OrderSpec('scale'), spec)
  layout, quantizer = order.layout, make_quantizer(spec)
  codes = np.random.default_rng(1).integers(0, 7, (2, layout.positions, 1))
  codes = jnp.asarray(codes, jnp.int32)
  keys = jax.random.split(jax.random.key(0), 2)
  example = order.example(quantizer, codes, keys)
  first = spec.grids[0][0] * spec.grids[0][1]
  assert layout.start == first == layout.block_sizes[0]
  assert example.inputs.shape == (2, layout.positions - first, 4)
  np.testing.assert_array_equal(example.targets, codes)
  np.testing.assert_array_equal(example.weights, 1)
  steps = np.repeat(np.arange(len(scales)), layout.block_sizes)
  np.testing.assert_array_equal(example.steps[0], steps)
  state = order.start(quantizer, keys, None)
  for step, size in enumerate(layout.block_sizes):
    turn = order.turn(state, step, step)
    rows = np.asarray(turn.targets[0])
    assert len(rows) == size
    if step:
      rows_of_input = example.inputs[:, rows - first]
      np.testing.assert_allclose(turn.inputs, rows_of_input, atol=1e-5)
    else:
      assert turn.inputs is None
    picked = codes[:, rows]
    features = order.embed(quantizer, picked)
    choice = Choice(picked, features, jnp.zeros((2, size)), keys)
    state = order.advance(quantizer, state, choice, step, step)
  drawn, features = order.finish(state)
  total = msvq.sum_codes(quantizer, codes)
  assert drawn is None
  np.testing.assert_allclose(features, total, atol=1e-5)
  assert total.shape == (2, *spec.grids[-1], 4)


def test_example_is_the_same_under_jit():
  spec = TokenizerSpec(code_dim=4, vocab=7, scales=(1, 2), phi_count=2)
  order, quantizer = make_order(OrderSpec(), spec), make_quantizer(spec)
  codes = jnp.ones((1, 5, 1), jnp.int32)
  plain, jitted = order.example, jax.jit(order.example)
  keys = jax.random.split(jax.random.key(0), 1)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    plain(quantizer, codes, keys),
    jitted(quantizer, codes, keys),
  )


def test_unknown_order_is_named():
  with pytest.raises(ConfigError, match='spiral'):
    make_order(OrderSpec('spiral'), TokenizerSpec())


def test_every_order_says_what_its_loss_is():
  for make in ORDERS.values():
    order = make(TokenizerSpec())
    assert order.loss_kind in ('exact', 'bound', 'surrogate')

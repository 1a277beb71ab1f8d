"""The next-scale order on square, rectangular and large first scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax.errors import ConfigError
from varjax.orders import ORDERS, make_order
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
  example = order.example(quantizer, codes)
  first = spec.grids[0][0] * spec.grids[0][1]
  assert layout.start == first == layout.block_sizes[0]
  assert example.inputs.shape == (2, layout.positions - first, 4)
  np.testing.assert_array_equal(example.targets, codes)
  np.testing.assert_array_equal(example.weights, 1)
  steps = np.repeat(np.arange(len(scales)), layout.block_sizes)
  np.testing.assert_array_equal(example.steps[0], steps)
  state, start = order.start(2), 0
  for step, size in enumerate(layout.block_sizes):
    features = order.embed(quantizer, codes[:, start : start + size])
    state, inputs = order.advance(quantizer, state, features, step)
    start += size
    if inputs is not None:
      rows = slice(start - first, start - first + inputs.shape[1])
      np.testing.assert_allclose(inputs, example.inputs[:, rows], atol=1e-5)
  assert inputs is None
  total = msvq.sum_codes(quantizer, codes)
  np.testing.assert_allclose(order.features(state), total, atol=1e-5)
  assert total.shape == (2, *spec.grids[-1], 4)


def test_example_is_the_same_under_jit():
  spec = TokenizerSpec(code_dim=4, vocab=7, scales=(1, 2), phi_count=2)
  order, quantizer = make_order(OrderSpec(), spec), make_quantizer(spec)
  codes = jnp.ones((1, 5, 1), jnp.int32)
  plain, jitted = order.example, jax.jit(order.example)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    plain(quantizer, codes),
    jitted(quantizer, codes),
  )


def test_unknown_order_is_named():
  with pytest.raises(ConfigError, match='spiral'):
    make_order(OrderSpec('spiral'), TokenizerSpec())


def test_every_order_says_what_its_loss_is():
  for make in ORDERS.values():
    order = make(TokenizerSpec())
    assert order.loss_kind in ('exact', 'bound', 'surrogate')

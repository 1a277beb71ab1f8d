"""No order may leak: logits of a step depend on earlier steps alone.

Measured, not argued: the Jacobian of a transformer with random weights, by
the embedded codes themselves, for every order on its table.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from varjax.orders import ORDERS
from varjax.spec import OrderSpec, TokenizerSpec

# Every token has a code of its own, so that the Jacobian by the table of
# codes is the Jacobian by the tokens.
SPEC = TokenizerSpec(
  code_dim=3, vocab=16, scales=((1, 2), (2, 2), (2, 3)), phi_count=2
)
SHIFTED = OrderSpec('setwise', 'random', (1, 4, 2, 2, 3))
CASES = {
  **{name: OrderSpec(name) for name in ORDERS},
  'split sets': OrderSpec('split', splits=(2, 2, 3)),
  'setwise sets': SHIFTED,
  'setwise separate': OrderSpec(
    'setwise', 'coarse', (3, 3, 6), context='separate'
  ),
  'setwise given': OrderSpec(
    'setwise', 'random', (3, 3, 2), context='separate', given=4
  ),
}


def jacobians(name):
  """(example, order, is row q's logits moved by token n [L, N])."""
  made = worlds.world(CASES[name], SPEC)
  order, layout = made.order, made.order.layout
  codes = np.random.default_rng(0).permutation(16)[:12]
  codes = jnp.asarray(codes, jnp.int32)[None, :, None]
  key = worlds.keys(1)
  example = order.example(made.quantizer, codes, key)
  rest = {
    'positions': example.positions,
    'steps': example.steps,
    'origins': example.origins,
  }
  label = jnp.zeros(1, jnp.int32)

  def by_codebook(table):
    weights = made.quantizer.replace(codebook=table)
    found = order.example(weights, codes, key)
    logits = made.model.apply(
      {'params': made.params}, label, found.inputs, sums=found.sums, **rest
    )
    return jnp.sum(logits[0], axis=(1, 2))

  def by_embedding(table):
    embed = dict(made.params['embed'], word={'embedding': table})
    params = {'params': dict(made.params, embed=embed)}
    logits = made.model.apply(params, label, example.inputs, **rest)
    return jnp.sum(logits[0], axis=(1, 2))

  if layout.input_kind == 'features':
    moved = jax.jit(jax.jacobian(by_codebook))(made.quantizer.codebook)
  else:
    table = made.params['embed']['word']['embedding']
    moved = jax.jit(jax.jacobian(by_embedding))(table)[:, 0]
  by_code = np.abs(moved).max(axis=-1) > 1e-7
  return example, order, by_code[:, codes[0, :, 0]]


def predicted_at(example):
  """(token, row) of the rows that count."""
  rows = np.flatnonzero(np.asarray(example.weights[0]))
  return np.asarray(example.positions[0])[rows], rows


# What another case shows as well, from further away.
AGAIN = ('setwise', 'setwise separate', 'split')


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] if name in AGAIN else [])
    for name in sorted(CASES)
  ],
)
def test_logits_see_only_what_the_steps_allow(name):
  example, order, seen = jacobians(name)
  tokens, rows = predicted_at(example)
  steps = np.broadcast_to(example.steps, (1, order.layout.positions))[0]
  # Step at which each token is predicted; tokens that are given come first.
  when = np.full(12, -1)
  when[tokens] = steps[rows]
  # A token is seen where it is predicted later, and nowhere else.
  np.testing.assert_array_equal(seen[rows], steps[rows][:, None] > when[None])


def test_the_codes_of_a_position_see_those_before_them():
  spec = TokenizerSpec(
    'rq', code_dim=3, vocab=20, scales=((2, 3),), codes_per_position=3
  )
  made = worlds.world(OrderSpec('residual'), spec)
  codes = np.random.default_rng(0).permutation(20)[:18]
  stacks = jnp.asarray(codes, jnp.int32).reshape(1, 6, 3)

  def by_codebook(table):
    weights = made.quantizer.replace(codebook=table)
    example = made.order.example(weights, stacks)
    return jnp.sum(made.logits(example)[0], axis=2).reshape(18)

  moved = jax.jit(jax.jacobian(by_codebook))(made.quantizer.codebook)
  seen = np.abs(moved).max(axis=-1)[:, codes] > 1e-7
  np.testing.assert_array_equal(seen, np.tril(np.ones((18, 18), bool), -1))


@pytest.mark.parametrize('attention', ['xla', 'blockwise'])
def test_the_step_rule_is_the_backend_s(attention):
  spec = worlds.MODEL.__class__(
    **(worlds.MODEL.__dict__ | {'attention': attention})
  )
  made = worlds.world(SHIFTED, SPEC, spec)
  other = worlds.world(SHIFTED, SPEC)
  codes = jnp.zeros((2, 12, 1), jnp.int32)
  example = made.order.example(None, codes, worlds.keys(2))
  np.testing.assert_allclose(
    made.logits(example), other.logits(example), atol=1e-5
  )

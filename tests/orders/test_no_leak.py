"""No order may leak: logits of a step depend on earlier steps alone.

Measured, not argued: the Jacobian of a transformer with random weights, by
the inputs and by the embedded codes themselves.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax.models.transformer import Transformer
from varjax.orders import ORDERS
from varjax.spec import ModelSpec, TokenizerSpec
from varjax.tokenizers import msvq

SPEC = TokenizerSpec(
  code_dim=3, vocab=9, scales=((1, 2), (2, 2), (2, 3)), phi_count=2
)
MODEL = ModelSpec(
  depth=2, width=8, heads=2, num_classes=3, compute_dtype='float32'
)


def _weights(shapes, seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32), shapes
  )


@pytest.mark.parametrize('name', sorted(ORDERS))
@pytest.mark.parametrize('attention', ['xla', 'blockwise'])
def test_logits_see_only_what_the_steps_allow(name, attention):
  order = ORDERS[name](SPEC)
  layout = order.layout
  rng = np.random.default_rng(0)
  quantizer = msvq.Quantizer(
    jnp.asarray(rng.normal(0, 1, (9, 3)), jnp.float32),
    jnp.asarray(rng.normal(0, 0.3, (2, 3, 3, 3, 3)), jnp.float32),
    jnp.zeros((2, 3)),
    grids=SPEC.grids,
    phi_count=2,
  )
  # Every position has a code of its own, so that the Jacobian by the
  # codebook is the Jacobian by the positions.
  codes = jnp.asarray(rng.permutation(64)[: layout.positions], jnp.int32)
  table = jnp.asarray(rng.normal(0, 1, (64, 3)), jnp.float32)
  codes = codes[None, :, None]
  example = order.example(quantizer.replace(codebook=table), codes)
  spec = MODEL.__class__(**(MODEL.__dict__ | {'attention': attention}))
  model = Transformer(spec, layout)
  label = jnp.zeros(1, jnp.int32)
  arrays = (example.positions, example.steps)
  shapes = jax.eval_shape(
    lambda: model.init(
      {'params': jax.random.key(0)}, label, example.inputs, *arrays
    )
  )
  params = {'params': _weights(jax.tree.map(lambda x: x, shapes), 1)['params']}

  def by_table(table):
    weights = quantizer.replace(codebook=table)
    inputs = order.example(weights, codes).inputs
    return jnp.sum(model.apply(params, label, inputs, *arrays)[0], axis=(1, 2))

  def by_inputs(inputs):
    return jnp.sum(model.apply(params, label, inputs, *arrays)[0], axis=(1, 2))

  jacobians = jax.jit(
    lambda t, x: (jax.jacobian(by_table)(t), jax.jacobian(by_inputs)(x))
  )(table, example.inputs)
  on_codes = np.abs(jacobians[0][:, codes[0, :, 0]]).max(axis=-1) > 1e-7
  on_inputs = np.abs(jacobians[1][:, 0]).max(axis=-1) > 1e-7
  steps = np.broadcast_to(example.steps, (1, layout.positions))[0]
  # A code may be seen from later steps only, and must be seen from them.
  np.testing.assert_array_equal(on_codes, steps[:, None] > steps[None])
  given = steps[layout.start :]
  np.testing.assert_array_equal(on_inputs, steps[:, None] >= given[None])

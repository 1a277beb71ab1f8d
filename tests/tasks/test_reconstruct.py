"""The reconstruct task: loss terms, statistics, evaluation, revival."""

import dataclasses

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from varjax.spec import DataSpec, ReconstructSpec, RunSpec, TokenizerSpec
from varjax.tasks.reconstruct import ReconstructTask, to_float

RUN = RunSpec(
  task='reconstruct',
  data=DataSpec(resolution=8),
  tokenizer=TokenizerSpec(
    ch=8, ch_mult=(1, 1), num_res_blocks=1, norm_groups=4, code_dim=4,
    vocab=16, scales=(1, 2, 4), phi_count=2, attention=False,
    revive_every=2,
  ),
  reconstruct=ReconstructSpec(l1=0.5, l2=2.0, quantize=3.0),
)  # fmt: skip


def _constant(images, output, rng):
  del images, output, rng
  return jnp.float32(7)


@pytest.fixture(scope='module')
def world():
  task = ReconstructTask(RUN, extra_losses=(('constant', _constant),))
  params, state = jax.jit(task.init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  batch = {
    'image': jnp.asarray(rng.integers(0, 256, (4, 8, 8, 3)), jnp.uint8),
    'mask': jnp.asarray([True, True, True, False]),
  }
  grad_fn = jax.jit(jax.value_and_grad(task.loss_fn, has_aux=True))
  return task, meta.unbox(params), state, batch, grad_fn


@pytest.fixture(scope='module')
def trained(world):
  """Twenty-five updates on one batch; losses, parameters, last output."""
  task, params, state, batch, grad_fn = world
  optimizer = optax.adam(3e-3)

  @jax.jit
  def update(params, state, grads, opt_state, step):
    updates, opt_state = optimizer.update(grads, opt_state)
    params, state = task.after_update(
      optax.apply_updates(params, updates), state, jax.random.key(step), step
    )
    return params, state, opt_state

  opt_state, losses = optimizer.init(params), []
  for step in range(25):
    (loss, output), grads = grad_fn(
      params, state, {}, batch, jax.random.key(step)
    )
    params, state, opt_state = update(
      params, output.state, grads, opt_state, step
    )
    losses.append(float(loss))
  return losses, params, state


def test_loss_is_the_sum_of_its_terms(world):
  _, params, state, batch, grad_fn = world
  (loss, output), grads = grad_fn(params, state, {}, batch, jax.random.key(0))
  terms = {k: v for k, v in output.metrics.items() if k.startswith('loss_')}
  assert set(terms) == {'loss_l1', 'loss_l2', 'loss_vq', 'loss_constant'}
  np.testing.assert_allclose(loss, sum(terms.values()), rtol=1e-6)
  assert float(terms['loss_constant']) == 7
  assert all(np.shape(v) == () for v in output.metrics.values())
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert {'psnr', 'usage', 'perplexity'} < set(output.metrics)


def test_state_counts_the_batch(world):
  task, params, state, batch, grad_fn = world
  (_, output), _ = grad_fn(params, state, {}, batch, jax.random.key(0))
  sizes = np.array(task.code_spec.block_sizes)
  np.testing.assert_allclose(output.state.ema.sum(-1), 4 * sizes, rtol=1e-6)
  assert int(output.state.updates) == 1
  assert output.state.candidates.shape == (16, 4)
  assert np.any(output.state.candidates)


def test_training_lowers_the_loss(trained):
  losses, _, _ = trained
  assert np.isfinite(losses).all()
  assert losses[-1] - 7 < 0.6 * (losses[0] - 7)


def test_revival_brings_codes_into_use(world, trained):
  task, _, _, batch, _ = world
  _, params, state = trained
  counts = jax.jit(task.eval_fn)(params, state, {}, batch).totals['code_count']
  assert int((counts.sum(0) > 0).sum()) >= 8


def test_evaluation(world, trained):
  task, _, _, batch, _ = world
  _, params, state = trained
  output = jax.jit(task.eval_fn)(params, state, {}, batch)
  assert output.per_image['psnr'].shape == (4,)
  assert output.per_image['psnr_scale'].shape == (4, 3)
  np.testing.assert_array_equal(
    output.per_image['psnr_scale'][:, -1], output.per_image['psnr']
  )
  error = np.asarray(output.per_image['mse'])
  np.testing.assert_allclose(
    output.per_image['psnr'], 10 * np.log10(4 / error), rtol=1e-5
  )
  counts = output.totals['code_count']
  np.testing.assert_array_equal(counts.sum(-1), [3, 12, 48])  # 3 are valid


def test_revival_happens_only_when_due(world):
  task, params, state, _, _ = world
  state = state.replace(candidates=jnp.full((16, 4), 9.0))
  key = jax.random.key(0)
  kept, _ = task.after_update(params, state, key, jnp.int32(0))
  due, _ = task.after_update(params, state, key, jnp.int32(1))
  before = params['quantizer']['embedding']
  np.testing.assert_array_equal(kept['quantizer']['embedding'], before)
  assert (due['quantizer']['embedding'] == 9).all()  # none was ever used
  np.testing.assert_array_equal(
    due['encoder']['conv_in']['kernel'], params['encoder']['conv_in']['kernel']
  )


def test_revival_keeps_boxed_weights_boxed(world):
  task, _, state, _, _ = world
  boxed = jax.eval_shape(task.init, jax.random.key(0))[0]
  shapes = jax.eval_shape(
    task.after_update, boxed, state, jax.random.key(0), jnp.int32(1)
  )[0]
  assert jax.tree.structure(shapes) == jax.tree.structure(boxed)


def test_without_revival_nothing_is_kept_for_it():
  tokenizer = dataclasses.replace(RUN.tokenizer, revive_every=0)
  task = ReconstructTask(dataclasses.replace(RUN, tokenizer=tokenizer))
  params, state = jax.eval_shape(task.init, jax.random.key(0))
  assert state.candidates is None
  assert task.after_update(params, state, None, 0) == (params, state)


def test_pixels_map_to_the_unit_range():
  ends = to_float(jnp.asarray([[[[0, 51, 255]]]], jnp.uint8))
  np.testing.assert_allclose(ends[0, 0, 0], [-1, -0.6, 1], atol=1e-6)

"""The reconstruct task: loss terms, statistics, evaluation, revival."""

import dataclasses

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from varjax import backbones, groups, schedule
from varjax import rng as rngs
from varjax.spec import (
  AdversarialSpec,
  DataSpec,
  Duration,
  PerceptualSpec,
  ReconstructSpec,
  RunSpec,
  TokenizerSpec,
)
from varjax.tasks.reconstruct import (
  DISCRIMINATOR,
  ReconstructTask,
  to_float,
)

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


@pytest.fixture(scope='module')
def world():
  task = ReconstructTask(RUN)
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
  assert set(terms) == {'loss_l1', 'loss_l2', 'loss_vq'}
  np.testing.assert_allclose(loss, sum(terms.values()), rtol=1e-6)
  assert all(np.shape(v) == () for v in output.metrics.values())
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert {'psnr', 'usage', 'perplexity', 'dead'} < set(output.metrics)


def test_state_counts_the_batch(world):
  task, params, state, batch, grad_fn = world
  (_, output), _ = grad_fn(params, state, {}, batch, jax.random.key(0))
  sizes = np.array(task.code_spec.block_sizes)
  np.testing.assert_allclose(
    output.state.usage.ema.sum(-1), 4 * sizes, rtol=1e-6
  )
  assert int(output.state.usage.updates) == 1
  assert output.state.usage.candidates.shape == (16, 4)
  assert np.any(output.state.usage.candidates)


def test_training_lowers_the_loss(trained):
  losses, _, _ = trained
  assert np.isfinite(losses).all()
  assert losses[-1] < 0.6 * losses[0]


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
  counts = state.usage.replace(candidates=jnp.full((16, 4), 9.0))
  state = state.replace(usage=counts)
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
  assert state.usage.candidates is None
  assert task.after_update(params, state, None, 0)[0] is params


def test_pixels_map_to_the_unit_range():
  ends = to_float(jnp.asarray([[[[0, 51, 255]]]], jnp.uint8))
  np.testing.assert_allclose(ends[0, 0, 0], [-1, -0.6, 1], atol=1e-6)


# --- with a discriminator ----------------------------------------------------


@pytest.fixture(scope='module')
def adversarial():
  """Both stages of a run, its weights, and gradients of the late one."""
  losses = dataclasses.replace(
    RUN.reconstruct,
    adversarial=AdversarialSpec(
      discriminator='patch', ch=4, layers=1, weight=0.7,
      start=Duration(steps=10), warmup=Duration(steps=8),
      blur=Duration(steps=6),
    ),
  )  # fmt: skip
  run = dataclasses.replace(
    RUN, reconstruct=losses, total=Duration(steps=40), batch_size=4
  )
  steps = schedule.resolve_run(run, 100)
  task = ReconstructTask(run)
  (_, early), (start, late) = task.stages(steps)
  assert start == 10
  params, state = jax.jit(lambda k: meta.unbox(task.init(k)))(jax.random.key(0))
  state = state.replace(updates=jnp.int32(12))
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3))
  batch = {'image': jnp.asarray(images, jnp.uint8)}
  (loss, output), grads = jax.jit(
    jax.value_and_grad(late.loss_fn, has_aux=True)
  )(params, state, {}, batch, jax.random.key(5))
  return steps, task, early, late, params, state, batch, loss, output, grads


def test_each_network_has_the_gradient_of_its_own_loss(adversarial):
  """Against both losses written out and differentiated separately."""
  _, _, _, late, params, state, batch, _, output, grads = adversarial
  adversary, spec = late.adversary, late.run.reconstruct
  images, key = to_float(batch['image']), jax.random.key(5)
  key = rngs.stream(key, DISCRIMINATOR)
  scale = 0.7 * 3 / 8 * output.metrics['adaptive_weight']

  def reconstruct(params):
    features = late.tokenizer.encode_features(params, images)
    quantized = late.tokenizer.quantizer(params).quantize(features)
    decoded = late.tokenizer.decode_unclipped(params, quantized.features)
    return decoded, quantized.loss

  def for_tokenizer(params, weights):
    decoded, quantize = reconstruct(params)
    against = adversary.generator_loss(
      decoded, weights, {}, state.updates, rngs.stream(key, 'generator')
    )
    return (
      spec.l1 * jnp.mean(jnp.abs(decoded - images))
      + spec.l2 * jnp.mean(jnp.square(decoded - images))
      + spec.quantize * quantize
      + scale * against
    )

  def for_discriminator(weights, params):
    return adversary.discriminator_loss(
      weights, images, reconstruct(params)[0], {}, state.updates,
      rngs.stream(key, 'told'),
    )[0]  # fmt: skip

  @jax.jit
  def both(params):
    parts = groups.split(params, [groups.MAIN, DISCRIMINATOR])
    return (
      jax.grad(for_tokenizer)(parts['main'], parts[DISCRIMINATOR]),
      jax.grad(for_discriminator)(parts[DISCRIMINATOR], parts['main']),
    )

  expected = dict(zip((groups.MAIN, DISCRIMINATOR), both(params), strict=True))
  found = groups.split(grads, expected)
  for name, tree in expected.items():
    for a, b in zip(*map(jax.tree.leaves, (found[name], tree)), strict=True):
      # float32 sums in another order: relative to the largest of a kernel.
      largest = np.abs(b).max()
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)
  assert np.any(expected[groups.MAIN]['encoder']['conv_in']['kernel'])
  assert np.any(expected[DISCRIMINATOR]['conv_0']['kernel'])


def test_loss_is_the_sum_of_both_networks_terms(adversarial):
  loss, output = adversarial[-3:-1]
  terms = {k: v for k, v in output.metrics.items() if k.startswith('loss_')}
  assert set(terms) == {
    'loss_l1', 'loss_l2', 'loss_vq', 'loss_adversarial', 'loss_discriminator',
  }  # fmt: skip
  np.testing.assert_allclose(loss, sum(terms.values()), rtol=1e-5)


def test_before_its_start_the_discriminator_is_left_alone(adversarial):
  steps, task, early, late, params, state, batch, *_ = adversarial
  assert set(task.groups(steps)) == {groups.MAIN, DISCRIMINATOR}
  assert task.groups(steps) == late.groups(steps)
  assert set(early.groups(steps)) == {groups.MAIN}
  shapes = [
    jax.eval_shape(stage.loss_fn, params, state, {}, batch, jax.random.key(0))
    for stage in (early, late)
  ]
  assert 'loss_discriminator' not in shapes[0][1].metrics
  assert jax.tree.structure(shapes[0][1].state) == jax.tree.structure(
    shapes[1][1].state
  )


def test_the_adversarial_weight_rises_from_the_start(adversarial):
  adversary = adversarial[3].adversary
  weights = [float(adversary.weight(jnp.int32(n))) for n in (10, 13, 17, 30)]
  np.testing.assert_allclose(weights, [0.7 / 8, 0.35, 0.7, 0.7], rtol=1e-6)


def test_a_run_against_dino_fits_together():
  """Shapes alone: frozen transformer, spectral state, both groups."""
  gan = AdversarialSpec(
    discriminator='dino', weights='unread', start=Duration(steps=0)
  )
  losses = dataclasses.replace(RUN.reconstruct, adversarial=gan)
  run = dataclasses.replace(
    RUN, reconstruct=losses, total=Duration(steps=4), batch_size=4
  )
  [(start, stage)] = ReconstructTask(run).stages(schedule.resolve_run(run, 9))
  assert start == 0
  params, state = jax.eval_shape(stage.init, jax.random.key(0))
  params = meta.unbox(params)
  assert len(state.discriminator) == 15  # kernels of five heads
  frozen = {DISCRIMINATOR: jax.eval_shape(_vit_small)}
  batch = {'image': jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.uint8)}
  (_, output), grads = jax.eval_shape(
    jax.value_and_grad(stage.loss_fn, has_aux=True),
    params, state, frozen, batch, jax.random.key(0),
  )  # fmt: skip
  assert jax.tree.structure(output.state) == jax.tree.structure(state)
  assert jax.tree.structure(grads) == jax.tree.structure(params)
  assert 'adaptive_weight' in output.metrics


def _vit_small():
  """Zeros in the shapes of ViT-S/16."""
  width, tokens = 384, 197

  def dense(inner, out):
    return {'kernel': jnp.zeros((inner, out)), 'bias': jnp.zeros(out)}

  norm = {'scale': jnp.ones(width), 'bias': jnp.zeros(width)}
  block = {
    'norm1': norm, 'qkv': dense(width, 3 * width), 'proj': dense(width, width),
    'norm2': norm, 'fc1': dense(width, 4 * width),
    'fc2': dense(4 * width, width),
  }  # fmt: skip
  return {
    'patch': dense(3 * 16 * 16, width),
    'class': jnp.zeros((1, 1, width)),
    'positions': jnp.zeros((1, tokens, width)),
    'blocks': [block] * 12,
  }


def test_perceptual_loss_looks_through_the_packaged_network():
  losses = dataclasses.replace(
    RUN.reconstruct, perceptual=PerceptualSpec('efflite0', weight=2.0)
  )
  run = dataclasses.replace(
    RUN,
    data=DataSpec(resolution=16),
    tokenizer=dataclasses.replace(RUN.tokenizer, scales=(1, 8)),
    reconstruct=losses,
  )
  task, frozen = ReconstructTask(run), backbones.frozen(run)
  params, state = jax.jit(lambda k: meta.unbox(task.init(k)))(jax.random.key(0))
  pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3))
  batch = {'image': jnp.asarray(pixels, jnp.uint8)}
  network = backbones.perceptual_network(losses.perceptual)

  @jax.jit
  def measure(params, frozen):
    _, out = task.loss_fn(params, state, frozen, batch, jax.random.key(0))
    images = to_float(batch['image'])
    features = task.tokenizer.encode_features(params, images)
    features = task.tokenizer.quantizer(params).quantize(features).features
    output = task.tokenizer.decode_unclipped(params, features)
    pair = 127.5 * (images + 1), 127.5 * (output + 1)
    return out.metrics, network.distance(frozen['perceptual'], *pair)

  metrics, distance = measure(params, frozen)
  assert np.all(distance > 0)
  np.testing.assert_allclose(
    metrics['loss_perceptual'], 2 * np.mean(distance), rtol=1e-4
  )
  assert backbones.identities(run)['perceptual'].startswith('efflite0-')

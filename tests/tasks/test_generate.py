"""The generate task: loss, metrics, evaluation, labels, both inputs."""

import dataclasses

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax.progressive import Stage
from varjax.schedule import Steps
from varjax.spec import (
  DataSpec,
  ModelSpec,
  ProgressiveSpec,
  RunSpec,
  TokenizerSpec,
)
from varjax.tasks import scores
from varjax.tasks.generate import GenerateTask
from varjax.tokenizers import make_tokenizer

RUN = RunSpec(
  data=DataSpec(resolution=4),
  tokenizer=TokenizerSpec(
    ch=4,
    ch_mult=(1, 1),
    num_res_blocks=1,
    norm_groups=2,
    attention=False,
    code_dim=3,
    vocab=8,
    scales=(1, 2),
    phi_count=2,
  ),
  model=ModelSpec(
    depth=1, width=8, heads=2, num_classes=3, compute_dtype='float32'
  ),
)


@pytest.fixture(scope='module')
def world():
  """Random weights, a tokenizer, and a batch in both forms."""
  task = GenerateTask(RUN)
  params, state = jax.eval_shape(task.init, jax.random.key(0))
  assert state == {}
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32),
    meta.unbox(params),
  )
  tokenizer = make_tokenizer(RUN.tokenizer, 4)
  vae = jax.jit(lambda k: meta.unbox(tokenizer.init(k, 4)))(jax.random.key(1))
  image = jnp.asarray(rng.integers(0, 256, (4, 4, 4, 3)), jnp.uint8)
  codes = jax.jit(tokenizer.encode)(vae, image.astype(jnp.float32) / 127.5 - 1)
  label = jnp.asarray([0, 1, 2, 1])
  return {
    'params': params,
    'frozen': {'quantizer': tokenizer.quantizer(vae)},
    'vae': {'tokenizer': vae},
    'batch': {'codes': codes, 'label': label},
    'images': {'image': image, 'label': label},
  }


def _eval(run, world, frozen='frozen', batch='batch'):
  task = GenerateTask(run)
  function = jax.jit(lambda p, f, b: task.eval_fn(p, {}, f, b))
  return function(world['params'], world[frozen], world[batch])


def _loss(run, world, batch, key=0):
  task = GenerateTask(run)
  function = jax.jit(
    lambda p, f, b, k: task.loss_fn(p, {}, f, b, k),
  )
  key = jax.random.key(key)
  return function(world['params'], world['frozen'], batch, key)


def _with_model(**changes):
  model = dataclasses.replace(RUN.model, **changes)
  return dataclasses.replace(RUN, model=model)


def test_eval_and_loss_agree_without_label_drop(world):
  found = _eval(RUN, world).per_image
  loss, aux = _loss(_with_model(label_drop=0.0), world, world['batch'])
  np.testing.assert_allclose(loss, found['loss'].mean(), rtol=1e-5)
  for key in ('loss', 'loss_last', 'err'):
    np.testing.assert_allclose(aux.metrics[key], found[key].mean(), rtol=1e-5)
  assert found['loss'].shape == (4,)
  assert found['loss_scales'].shape == found['err_scales'].shape == (4, 2)
  by_size = found['loss_scales'] @ jnp.asarray([1.0, 4.0]) / 5
  np.testing.assert_allclose(by_size, found['loss'], rtol=1e-5)
  np.testing.assert_allclose(found['loss_last'], found['loss_scales'][:, -1])
  np.testing.assert_allclose(found['err_last'], found['err_scales'][:, -1])
  assert np.all(np.abs(found['loss_uncond'] - found['loss']) > 1e-6)


def test_codes_and_images_give_the_same(world):
  run = dataclasses.replace(RUN, input='images')
  expected = _eval(RUN, world).per_image
  found = _eval(run, world, 'vae', 'images').per_image
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected
  )


def test_label_drop_trains_no_class(world):
  always = _with_model(label_drop=1.0)
  loss, _ = _loss(always, world, world['batch'])
  uncond = _eval(RUN, world).per_image['loss_uncond']
  np.testing.assert_allclose(loss, uncond.mean(), rtol=1e-5)
  quirk = _with_model(label_drop=1.0, label_drop_in_eval=True)
  found = _eval(quirk, world).per_image
  np.testing.assert_allclose(found['loss'], uncond, rtol=1e-5)


def test_label_smoothing_moves_the_loss_and_not_the_metrics(world):
  plain, aux = _loss(_with_model(label_drop=0.0), world, world['batch'])
  smooth = _with_model(label_drop=0.0, label_smoothing=0.5)
  loss, smooth_aux = _loss(smooth, world, world['batch'])
  assert abs(loss - plain) > 1e-4
  np.testing.assert_allclose(
    aux.metrics['loss'], smooth_aux.metrics['loss'], rtol=1e-6
  )


def test_masked_images_do_not_count(world):
  run = _with_model(label_drop=0.0)
  per_image = _eval(RUN, world).per_image['loss']
  mask = jnp.asarray([True, False, True, True])
  loss, _ = _loss(run, world, world['batch'] | {'mask': mask})
  np.testing.assert_allclose(loss, per_image[mask].mean(), rtol=1e-5)


def test_a_stage_trains_its_scales_with_the_newest_fading_in(world):
  run = dataclasses.replace(
    _with_model(label_drop=0.0), progressive=ProgressiveSpec(share=0.5)
  )
  stage = Stage(start=3, stop=9, last=0, fade_steps=4)
  task = GenerateTask(run, stage)
  _, state = jax.eval_shape(task.init, jax.random.key(0))
  assert state['updates'].shape == ()
  expected = _eval(RUN, world).per_image['loss_scales'][:, 0].mean()
  loss_fn = jax.jit(task.loss_fn)
  for updates, weight in ((3, 0.25), (4, 0.5), (8, 1.0)):
    state = {'updates': jnp.int32(updates)}
    loss, aux = loss_fn(
      world['params'],
      state,
      world['frozen'],
      world['batch'],
      jax.random.key(0),
    )
    # One position of five, but the mean is over all five.
    np.testing.assert_allclose(loss, weight * expected / 5, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics['loss'], expected, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics['loss_last'], expected, rtol=1e-5)
  _, state = task.after_update({}, state, jax.random.key(0), jnp.int32(8))
  assert state['updates'] == 9


def test_stages_of_the_task_follow_the_timetable():
  steps = Steps(total=10, warmup=2, evaluate=0, checkpoint=0, log=0, fade=1)
  assert len(GenerateTask(RUN).stages(steps)) == 1
  spec = ProgressiveSpec(share=0.8, first=0)
  task = GenerateTask(dataclasses.replace(RUN, progressive=spec))
  stages = task.stages(steps)
  assert [start for start, _ in stages] == [0, 6]
  assert [part.stage.last for _, part in stages] == [0, 1]


# -------------------------------------------------- the loss in parts


def _value_and_grad(run, world, batch):
  task = GenerateTask(run)

  def loss(params):
    return task.loss_fn(
      params, {}, world['frozen'], batch, jax.random.key(0)
    )  # fmt: skip

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(world['params'])


@pytest.mark.parametrize('chunks', [2, 3, 5])
def test_a_loss_in_parts_equals_the_whole(world, chunks):
  """Five positions: parts of 3 + 2, of 2 + 2 + 1, and of one each."""
  changes = {'label_smoothing': 0.1, 'drop_path': 0.2}
  mask = jnp.asarray([True, False, True, True])
  batch = world['batch'] | {'mask': mask}
  whole = _value_and_grad(_with_model(**changes), world, batch)
  parts = _value_and_grad(
    _with_model(**changes, loss_chunks=chunks), world, batch
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    parts,
    whole,
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    _eval(_with_model(loss_chunks=chunks), world),
    _eval(RUN, world),
  )


def test_parts_count_sub_tokens_as_the_whole_does():
  logits, targets = _random_logits(vocab=2, codes=6)

  def score(logits, targets):
    return scores.of_logits(logits, targets, smoothing=0.1, factors=3)

  whole = score(logits, targets)
  parts = scores.in_chunks(score, (logits, targets), 2)
  assert set(np.unique(np.round(whole.wrong, 3))) >= {0.5, 1.0}
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), parts, whole
  )


def _random_logits(vocab, codes):
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(3, 7, codes, vocab)), jnp.float32)
  return logits, jnp.asarray(rng.integers(0, vocab, (3, 7, codes)), jnp.int32)


@pytest.mark.parametrize(('chunks', 'exists'), [(0, True), (5, False)])
def test_in_parts_no_array_holds_the_logits_of_a_batch(chunks, exists):
  tokenizer = dataclasses.replace(RUN.tokenizer, vocab=1024)
  run = dataclasses.replace(
    _with_model(loss_chunks=chunks), tokenizer=tokenizer
  )
  task = GenerateTask(run)
  made = make_tokenizer(tokenizer, 4)

  def inputs(key):
    frozen = {'quantizer': made.quantizer(meta.unbox(made.init(key, 4)))}
    return meta.unbox(task.init(key)[0]), frozen

  params, frozen = jax.eval_shape(inputs, jax.random.key(0))
  batch = {
    'codes': jax.ShapeDtypeStruct((16, 5, 1), jnp.int32),
    'label': jax.ShapeDtypeStruct((16,), jnp.int32),
  }

  def loss(params, frozen, batch):
    key = jax.random.key(0)
    return task.loss_fn(params, {}, frozen, batch, key)[0]

  jaxpr = jax.make_jaxpr(jax.grad(loss))(params, frozen, batch)
  largest = max(_sizes(jaxpr.jaxpr))
  assert (largest >= 16 * 5 * 1024) == exists
  assert largest >= 16 * 1024  # Of one part they do exist.


def _sizes(jaxpr):
  """Elements of every array that a program computes, loops included."""
  for equation in jaxpr.eqns:
    yield from (
      v.aval.size for v in equation.outvars if hasattr(v.aval, 'size')
    )
    for inner in jax.core.jaxprs_in_params(equation.params):
      yield from _sizes(inner)

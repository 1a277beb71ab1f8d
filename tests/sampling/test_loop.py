"""The sampler on a tiny model: seeds, guidance, single scales, editing."""

import functools

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax.errors import ConfigError
from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.sampling import edit, loop
from varjax.spec import ModelSpec, OrderSpec, SampleSpec, TokenizerSpec
from varjax.tokenizers import msvq

MODEL = ModelSpec(
  depth=2, width=8, heads=2, num_classes=3, compute_dtype='float32'
)
LABELS = jnp.asarray([0, 2, -1])


def _world(scales):
  spec = TokenizerSpec(code_dim=3, vocab=9, scales=scales, phi_count=2)
  order = make_order(OrderSpec(), spec)
  model = Transformer(MODEL, order.layout)
  rng = np.random.default_rng(0)

  def draw(x):
    return jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32)

  rows = order.layout.positions - order.layout.start
  shapes = jax.eval_shape(
    lambda: meta.unbox(
      model.init(
        {'params': jax.random.key(0)},
        jnp.zeros(1, jnp.int32),
        jnp.zeros((1, rows, 3)),
      )
    )
  )
  quantizer = msvq.Quantizer(
    draw(np.zeros((9, 3))),
    draw(np.zeros((2, 3, 3, 3, 3))),
    draw(np.zeros((2, 3))),
    grids=spec.grids,
    phi_count=2,
  )
  return model, jax.tree.map(draw, shapes)['params'], order, quantizer


@pytest.fixture(scope='module')
def world():
  return _world(((1, 2), (2, 2)))


def _run(world, known=None, **settings):
  model, params, order, quantizer = world
  return jax.jit(
    functools.partial(
      loop.run,
      model,
      params,
      order,
      quantizer,
      settings=SampleSpec(**settings),
      known=known,
    )
  )


def test_unguided_logits_are_the_teacher_forced_ones(world):
  model, params, order, quantizer = world
  run = _run(world, cfg=0)
  found = run(LABELS, jax.random.key(0))
  labels = jnp.where(LABELS < 0, MODEL.num_classes, LABELS)
  example = order.example(quantizer, found.codes)
  expected = model.apply({'params': params}, labels, example.inputs)
  np.testing.assert_allclose(found.logits, expected, atol=1e-5)
  total = msvq.sum_codes(quantizer, found.codes)
  np.testing.assert_allclose(found.features, total, atol=1e-5)
  again, other = (run(LABELS, jax.random.key(k)) for k in (0, 1))
  np.testing.assert_array_equal(again.codes, found.codes)
  assert np.any(other.codes != found.codes)


def test_guidance_is_off_at_the_first_step_and_full_at_the_last(world):
  plain = _run(world, cfg=0, top_k=1)(LABELS, jax.random.key(0)).logits
  guided = _run(world, cfg=2.0, top_k=1)(LABELS, jax.random.key(0)).logits
  np.testing.assert_allclose(guided[:, :2], plain[:, :2], atol=1e-5)
  assert np.abs(guided[0, 2:] - plain[0, 2:]).max() > 1e-3
  # Guiding "no class" away from "no class" changes nothing.
  np.testing.assert_allclose(guided[2], plain[2], atol=1e-4)


def test_one_scale_alone_can_be_sampled():
  world = _world((2,))
  run = _run(world, cfg=1.0, top_k=3, top_p=0.9, smooth=True)
  found = run(LABELS, jax.random.key(0))
  assert found.codes.shape == (3, 4, 1)
  assert found.features.shape == (3, 2, 2, 3)
  assert np.isfinite(found.features).all()


def test_keeping_everything_returns_the_given_image(world):
  _, _, order, quantizer = world
  codes = jnp.asarray(np.arange(18).reshape(3, 6, 1) % 9, jnp.int32)
  grids = order.code_spec.grids
  known = edit.known(codes, np.ones(grids[-1]), grids)
  run = _run(world, cfg=1.5, known=known)
  found = run(LABELS, jax.random.key(0))
  total = msvq.sum_codes(quantizer, codes)
  np.testing.assert_allclose(found.features, total, atol=1e-5)
  np.testing.assert_array_equal(edit.merge(found.codes, known), codes)


def test_masks():
  mask = edit.box_mask(4, (0.0, 0.25, 0.5, 1.0), keep='inside')
  np.testing.assert_array_equal(mask[:2, 1:], 1)
  assert mask.sum() == 6
  outside = edit.box_mask((4, 4), (0.0, 0.25, 0.5, 1.0), keep='outside')
  np.testing.assert_array_equal(mask + outside, 1)
  kept = edit.keep_mask(mask, [(1, 1), (1, 3), (2, 2), (4, 4)])
  np.testing.assert_array_equal(kept[:4], True)
  np.testing.assert_array_equal(kept[8:].reshape(4, 4), mask > 0.5)
  with pytest.raises(ConfigError, match='box'):
    edit.box_mask(4, (0.5, 0, 0.2, 1), keep='inside')
  with pytest.raises(ConfigError, match='keep'):
    edit.box_mask(4, (0, 0, 1, 1), keep='all')
  with pytest.raises(ConfigError, match='mask'):
    edit.keep_mask(mask, [(1, 1), (2, 2)])


@pytest.mark.parametrize('smooth', [False, True])
def test_an_image_depends_on_its_own_key_alone(world, smooth):
  model, params, order, quantizer = world
  # Weaker weights: flat distributions, where every draw is another.
  params = jax.tree.map(lambda x: 0.3 * x, params)
  run = _run(
    (model, params, order, quantizer), cfg=1.5, top_p=0.99, smooth=smooth
  )
  fold = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(3)))
  keys, labels = fold(jnp.arange(8)), jnp.arange(8) % 3

  def images(index):
    found = run(labels[index], keys[index])
    return np.asarray(found.codes), np.asarray(found.features)

  codes, features = images(np.arange(8))
  assert len({c.tobytes() for c in codes}) == 8
  others = [[0], [2, 5, 7], [3, 1, 7, 0, 2, 6, 5, 4]]
  for index in others[smooth:]:
    some_codes, some_features = images(np.asarray(index))
    np.testing.assert_array_equal(some_codes, codes[index])
    np.testing.assert_allclose(some_features, features[index], atol=1e-6)
  one_key = run(labels, jax.random.key(3))
  np.testing.assert_array_equal(one_key.codes, codes)


def test_raw_keys_are_keys_and_other_counts_are_refused():
  key = jax.random.key(5)
  raw = loop.image_keys(jax.random.key_data(key), 2)
  np.testing.assert_array_equal(
    jax.random.key_data(raw), jax.random.key_data(loop.image_keys(key, 2))
  )
  with pytest.raises(ConfigError, match='one for each of the 3'):
    loop.image_keys(jax.random.split(key, 2), 3)

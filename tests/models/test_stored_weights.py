"""Weights and caches of a sampler in few bytes: errors, sizes, greedy codes."""

import dataclasses
import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from varjax.evals import nll
from varjax.models import quantised
from varjax.models.transformer import Transformer
from varjax.models.weights import stored
from varjax.sampling import loop
from varjax.spec import ModelSpec, OrderSpec, SampleSpec, TokenizerSpec

MODEL = ModelSpec(
  depth=2, width=64, heads=4, num_classes=3, compute_dtype='float32'
)
SCALES = TokenizerSpec(code_dim=3, vocab=32, scales=(1, 2, 3), phi_count=2)
LABELS = jnp.asarray([0, 2, 1])


@pytest.fixture(scope='module')
def made():
  return worlds.world(OrderSpec(), SCALES, MODEL, scale=0.1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from((0.0, 1e-3, 1.0, 1e4)))
def test_a_product_errs_by_half_a_level_of_every_input(seed, size):
  rng = np.random.default_rng(seed)
  kernel = (size * rng.normal(0, 1, (5, 7))).astype(np.float32)
  kernel[:, 0] = 0  # A channel of zeros.
  x = rng.normal(0, 1, (3, 5)).astype(np.float32)
  found = quantised.of_kernel(jnp.asarray(kernel), 0)
  assert found.values.dtype == jnp.int8
  assert found.scale.shape == (7,)
  error = np.abs(x @ np.asarray(found.astype('float32')) - x @ kernel)
  bound = np.asarray(found.scale)[None] / 2 * np.abs(x).sum(1, keepdims=True)
  assert np.all(error <= bound * (1 + 1e-5) + 1e-6 * size)


def test_an_int8_tree_is_about_a_quarter_and_costs_little(made):
  small = stored(made.params, 'float32', 'int8')
  kernels = {'qkv', 'proj', 'fc1', 'fc2', 'adaln', 'logits'}
  found = set()
  for path, leaf in jax.tree_util.tree_leaves_with_path(small):
    if leaf.dtype == jnp.int8:
      found |= {getattr(key, 'key', '') for key in path} & kernels
  assert found == kernels
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
  assert 0.25 < size(small) / size(made.params) < 0.32
  codes = np.random.default_rng(1).integers(0, 32, (3, 14, 1)).astype(np.int32)
  example = made.order.example(made.quantizer, jnp.asarray(codes))
  loss = jax.jit(
    lambda params: jnp.mean(
      nll.cross_entropy(
        made.model.apply({'params': params}, LABELS, example.inputs),
        example.targets,
      )
    )
  )
  exact, coarse = float(loss(made.params)), float(loss(small))
  assert exact != coarse
  assert abs(coarse - exact) < 0.01 * exact


def test_weights_in_the_compute_type_are_what_products_round_to(made):
  assert stored(made.params, 'float32') is made.params
  kept = stored(made.params, 'bfloat16')
  types = {
    '/'.join(key.key for key in path): leaf.dtype.name
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept)
  }
  for name, dtype in types.items():
    exact = name.startswith('embed') or name.split('/')[-1] == 'scale'
    exact |= name.startswith('head/adaln') or name == 'head/logits/bias'
    assert dtype == ('float32' if exact else 'bfloat16'), name
  model = Transformer(
    dataclasses.replace(MODEL, compute_dtype='bfloat16'), made.order.layout
  )
  codes = jnp.zeros((3, 14, 1), jnp.int32)
  inputs = made.order.example(made.quantizer, codes).inputs
  apply = jax.jit(lambda p: model.apply({'params': p}, LABELS, inputs))
  np.testing.assert_allclose(apply(kept), apply(made.params), atol=2e-2)


def test_greedy_samples_are_the_argmax_step_by_step(made):
  """The sampler, and int8 weights and cache, against teacher forcing."""
  run = functools.partial(
    loop.run,
    made.model,
    order=made.order,
    quantizer=made.quantizer,
    labels=LABELS,
    rng=jax.random.key(0),
    settings=SampleSpec(cfg=2.0, top_k=1, top_p=0.9),
  )
  found = jax.jit(run)(params=made.params)
  order, sizes = made.order, made.order.layout.block_sizes

  @jax.jit
  def forced(codes):
    example = order.example(made.quantizer, codes)
    yes = made.logits(example, LABELS)
    no = made.logits(example, jnp.full(3, MODEL.num_classes))
    steps = np.repeat(np.arange(len(sizes)), sizes) / (len(sizes) - 1)
    strength = (2.0 * steps)[None, :, None, None].astype(np.float32)
    return (1 + strength) * yes - strength * no

  codes = jnp.zeros((3, 14, 1), jnp.int32)
  for _ in sizes:  # Each pass makes one more scale right.
    logits = forced(codes)
    codes = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  np.testing.assert_array_equal(found.codes, codes)
  np.testing.assert_allclose(found.logits, logits, atol=1e-4)
  small = stored(made.params, 'float32', 'int8')
  coarse = jax.jit(functools.partial(run, cache_dtype='int8'))(params=small)
  error = np.abs(coarse.logits[:, :1] - found.logits[:, :1]).max()
  assert 0 < error < 0.05 * np.abs(found.logits).max()
  assert np.mean(coarse.codes == found.codes) > 0.5


def test_an_int8_cache_errs_by_half_a_level_of_every_row():
  from varjax.models.cache import empty

  rng = np.random.default_rng(0)
  new = tuple(
    jnp.asarray(rng.normal(0, 1, (2, 3, 4, 4, 16)), jnp.float32)
    for _ in range(2)
  )
  cache = empty(MODEL, 3, 14, 'int8').write(new, 2)
  assert cache.k.dtype == jnp.int8
  layer = jax.tree.map(lambda x: x[1], cache.prefix(6))
  own = tuple(x[1, :, :1] for x in new)
  for joined, exact in zip(layer.joined(*own), new, strict=True):
    assert joined.shape == (3, 7, 4, 16)
    np.testing.assert_array_equal(joined[:, :2], 0)
    np.testing.assert_array_equal(joined[:, 6:], exact[1, :, :1])
    largest = np.abs(exact[1]).max(-1, keepdims=True)
    error = np.abs(joined[:, 2:6] - exact[1])
    assert np.all(error <= largest / 127 / 2 * (1 + 1e-5))

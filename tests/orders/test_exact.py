"""What an order claims of its likelihood, checked on all images there are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from varjax.errors import ConfigError
from varjax.orders import ORDERS, make_order
from varjax.orders.masked import MaskedOrder
from varjax.spec import ModelSpec, OrderSpec, TokenizerSpec

MODEL = ModelSpec(
  depth=1, width=8, heads=2, num_classes=3, compute_dtype='float32'
)
TOY = TokenizerSpec(code_dim=3, vocab=4, scales=(2,))
TOY_SCALES = TokenizerSpec(
  code_dim=3, vocab=4, scales=((1, 1), (1, 3)), phi_count=2
)
TOY_DEPTH = TokenizerSpec(
  'rq', code_dim=3, vocab=2, scales=(2,), codes_per_position=2
)
EXACT = {
  'raster': OrderSpec('raster'),
  'permuted': OrderSpec('permuted'),
  'shifted sets': OrderSpec('setwise', 'random', (2, 1, 1)),
  'separate sets': OrderSpec('setwise', 'coarse', (1, 3), context='separate'),
  'scale': OrderSpec('scale'),
  'split scales': OrderSpec('split', splits=(1, 2)),
  'residual': OrderSpec('residual'),
  'residual depth': OrderSpec('residual'),
}


@pytest.mark.parametrize('name', sorted(EXACT))
def test_the_probabilities_of_all_images_sum_to_one(name):
  spec = TOY_SCALES if 'scale' in name else TOY
  if name == 'residual depth':
    spec = TOY_DEPTH
  made = worlds.world(EXACT[name], spec, MODEL)
  assert made.order.loss_kind == 'exact'
  shape = (256, 4, spec.codes_per_position)
  tokens = itertools.product(range(spec.vocab), repeat=shape[1] * shape[2])
  images = jnp.asarray(list(tokens), jnp.int32).reshape(shape)
  keys = worlds.keys(256, same=True)
  example = made.order.example(made.quantizer, images, keys)
  # Nats per predicted token, as the task averages them.
  nats = jnp.mean(jax.jit(made.nats)(example), axis=1) * 4
  log_total = jax.nn.logsumexp(-nats)
  np.testing.assert_allclose(log_total, 0, atol=2e-5)
  assert np.ptp(nats) > 0.5  # The model is no uniform distribution.


SPEC = TokenizerSpec(code_dim=3, vocab=5, scales=(3,))
CODES = jnp.asarray(
  np.random.default_rng(2).integers(0, 5, (4, 9, 1)), jnp.int32
)


@pytest.mark.parametrize(
  ('dedicated', 'point'),
  [
    (OrderSpec('raster'), OrderSpec('setwise', 'raster')),
    (OrderSpec('permuted'), OrderSpec('setwise', 'random')),
  ],
)
def test_single_tokens_are_the_dedicated_orders(dedicated, point):
  one = worlds.world(dedicated, SPEC, MODEL)
  other = worlds.world(point, SPEC, MODEL)
  keys = worlds.keys(4)
  examples = [w.order.example(None, CODES, keys) for w in (one, other)]
  jax.tree.map(np.testing.assert_array_equal, *examples)
  assert one.order.layout == other.order.layout
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_one_set_after_given_tokens_is_the_masked_order():
  masked = worlds.world(OrderSpec('masked'), SPEC, MODEL)
  point = worlds.world(
    OrderSpec('setwise', 'random', (5,), context='separate', given=4),
    SPEC,
    MODEL,
  )
  keys = worlds.keys(4)
  hidden = np.asarray(point.order.sequences(keys))[:, 4:]
  masks = np.zeros((4, 9), bool)
  np.put_along_axis(masks, hidden, True, axis=1)
  one = masked.order.with_masks(CODES, jnp.asarray(masks))
  other = point.order.example(None, CODES, keys)
  assert masked.order.layout.symbols == point.order.layout.symbols
  np.testing.assert_allclose(
    jnp.mean(masked.nats(one), axis=1),
    jnp.mean(point.nats(other), axis=1),
    rtol=1e-5,
  )


def test_the_masked_bound_counts_every_number_of_masks_alike():
  order = make_order(OrderSpec('masked', mask_ratio='uniform'), SPEC)
  assert isinstance(order, MaskedOrder)
  codes = jnp.zeros((600, 9, 1), jnp.int32)
  example = order.example(None, codes, jax.random.split(jax.random.key(0), 600))
  counts = np.asarray((example.weights > 0).sum(axis=1))
  found = np.bincount(counts, minlength=10)
  assert found[0] == 0
  assert found[1:].min() > 30  # 600 / 9 each
  np.testing.assert_allclose(jnp.mean(example.weights, axis=1), 1, rtol=1e-5)
  assert (example.weights[:, 0] == 0).all()
  cosine = make_order(OrderSpec('masked'), SPEC)
  drawn = cosine.example(None, codes, jax.random.split(jax.random.key(0), 600))
  share = np.mean(np.asarray(drawn.weights > 0).sum(axis=1)) / 9
  np.testing.assert_allclose(share, 2 / np.pi + 1 / 18, atol=0.03)


@pytest.mark.parametrize(
  ('settings', 'key'),
  [
    ({'sets': (4, 4)}, 'order.sets'),
    ({'sets': (9, 0)}, 'order.sets'),
    ({'context': 'sideways'}, 'order.context'),
    ({'permutation': 'spiral'}, 'order.permutation'),
    ({'sets': (5,), 'given': 4}, 'order.given'),
  ],
)
def test_impossible_sets_are_refused(settings, key):
  order = make_order(OrderSpec('setwise', **settings), SPEC)
  with pytest.raises(ConfigError, match=key):
    _ = order.layout, order.sequences(worlds.keys(1))


def test_impossible_masks_are_refused():
  for settings, key in (
    ({'mask_ratio': 'all'}, 'order.mask_ratio'),
    ({'turns': 0}, 'order.turns'),
  ):
    order = make_order(OrderSpec('masked', **settings), SPEC)
    with pytest.raises(ConfigError, match=key):
      _ = order.loss_kind, order.turns


def test_coarse_permutations_are_nested_grids():
  spec = TokenizerSpec(vocab=4, scales=(8,))
  order = make_order(OrderSpec('setwise', 'coarse'), spec)
  numbers = np.asarray(order.sequences(worlds.keys(1)))[0]
  assert sorted(numbers) == list(range(64))
  assert numbers[0] == 0
  assert sorted(numbers[:4]) == [0, 4, 32, 36]
  even = [8 * y + x for y in range(0, 8, 2) for x in range(0, 8, 2)]
  assert sorted(numbers[:16]) == even


def test_scales_in_one_set_each_are_the_scale_order():
  spec = TokenizerSpec(code_dim=3, vocab=5, scales=(1, 2, 3), phi_count=2)
  one = worlds.world(OrderSpec('scale'), spec, MODEL)
  other = worlds.world(OrderSpec('split'), spec, MODEL)
  codes = jnp.asarray(
    np.random.default_rng(0).integers(0, 5, (2, 14, 1)), jnp.int32
  )
  examples = [w.order.example(w.quantizer, codes) for w in (one, other)]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *examples
  )
  assert one.order.layout == other.order.layout
  for splits in ((1, 2), (1, 5, 1), (0, 1, 1)):
    order = make_order(OrderSpec('split', splits=splits), spec)
    with pytest.raises(ConfigError, match='splits'):
      _ = order.layout


@pytest.mark.parametrize('name', sorted(set(ORDERS) - {'scale', 'split'}))
def test_every_order_counts_what_it_predicts(name):
  layout = make_order(OrderSpec(name), SPEC).layout
  assert layout.predicted == 9
  assert sum(layout.block_sizes or ()) == layout.positions

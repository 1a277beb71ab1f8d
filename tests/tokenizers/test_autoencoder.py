"""The whole tokenizer on tiny networks, and its size at full scale."""

import dataclasses

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import errors
from varjax.spec import TokenizerSpec
from varjax.tokenizers import convnet, enlarge, make_tokenizer, msvq
from varjax.tokenizers.store import tokenizer_id

TINY = TokenizerSpec(
  ch=8, ch_mult=(1, 2), num_res_blocks=1, norm_groups=4, code_dim=4,
  vocab=16, scales=(1, 2, 4), phi_count=2,
)  # fmt: skip
SIDE = 8


@pytest.fixture(scope='module')
def tiny():
  tokenizer = make_tokenizer(TINY, SIDE)
  params = meta.unbox(jax.jit(lambda k: tokenizer.init(k, SIDE))(
    jax.random.key(0)
  ))  # fmt: skip
  images = jax.random.uniform(
    jax.random.key(1), (3, SIDE, SIDE, 3), minval=-1, maxval=1
  )
  codes = jax.jit(tokenizer.encode)(params, images)
  return tokenizer, params, images, codes


def _count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_official_size():
  """Counts of the released 256-pixel tokenizer, ch = 160."""
  tokenizer = make_tokenizer(TokenizerSpec(), 256)
  params = jax.eval_shape(
    lambda: meta.unbox(tokenizer.init(jax.random.key(0), 256))
  )
  assert {k: _count(v) for k, v in params.items()} == {
    'encoder': 44_107_872,
    'decoder': 64_653_923,
    'quantizer': 168_064,
    'quant_conv': 9_248,
    'post_quant_conv': 9_248,
  }
  assert _count(params) == 108_948_355
  images = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
  codes = jax.eval_shape(tokenizer.encode, params, images)
  assert codes.shape == (2, 680, 1)
  assert jax.eval_shape(tokenizer.decode, params, codes).shape == images.shape


def test_shapes_and_ranges(tiny):
  tokenizer, params, images, codes = tiny
  assert codes.shape == (3, tokenizer.code_spec.positions, 1)
  decoded = jax.jit(tokenizer.decode)(params, codes)
  assert decoded.shape == images.shape
  assert decoded.dtype == jnp.float32
  assert np.abs(decoded).max() <= 1
  assert np.isfinite(decoded).all()


def test_partial_images_end_with_the_decoded_image(tiny):
  tokenizer, params, _, codes = tiny
  partial = jax.jit(tokenizer.partial_images)(params, codes)
  assert partial.shape == (3, 3, SIDE, SIDE, 3)
  decoded = jax.jit(tokenizer.decode)(params, codes)
  np.testing.assert_allclose(partial[-1], decoded, atol=1e-5)
  assert np.abs(partial[0] - partial[-1]).max() > 1e-6


def test_decode_is_a_function_of_the_summed_codes(tiny):
  tokenizer, params, _, codes = tiny
  features = msvq.sum_codes(tokenizer.quantizer(params), codes)
  np.testing.assert_allclose(
    jax.jit(tokenizer.decode_features)(params, features),
    jax.jit(tokenizer.decode)(params, codes),
    atol=1e-5,
  )


def test_initialisation(tiny):
  _, params, _, _ = tiny
  embedding = params['quantizer']['embedding']
  assert np.abs(embedding).max() <= 4**-0.5 / 36
  kernel = params['decoder']['mid_block_1']['conv1']['kernel']
  xavier = 0.5 * np.sqrt(2 / (9 * 16 + 9 * 16))
  np.testing.assert_allclose(np.std(kernel), xavier, rtol=0.1)
  phi = params['quantizer']['phi']['kernel']
  np.testing.assert_allclose(
    np.std(phi), 0.5 * np.sqrt(2 / (9 * 4 + 9 * 4)), rtol=0.2
  )
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key == 'bias':
      assert not np.any(leaf), path


def test_without_phi_or_attention():
  spec = dataclasses.replace(TINY, phi_ratio=0.0, attention=False)
  tokenizer = make_tokenizer(spec, SIDE)
  params = jax.eval_shape(
    lambda: meta.unbox(tokenizer.init(jax.random.key(0), SIDE))
  )
  assert set(params['quantizer']) == {'embedding'}
  assert not [k for k in params['encoder'] if 'attn' in k]
  images = jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), jnp.float32)
  assert jax.eval_shape(tokenizer.encode, params, images).shape == (2, 21, 1)


def test_every_weight_is_boxed_with_its_axes():
  tokenizer = make_tokenizer(TINY, SIDE)
  boxed = jax.eval_shape(lambda: tokenizer.init(jax.random.key(0), SIDE))
  leaves = jax.tree.leaves(
    boxed, is_leaf=lambda x: isinstance(x, meta.AxisMetadata)
  )
  for leaf in leaves:
    assert isinstance(leaf, meta.AxisMetadata)
    assert len(leaf.names) == len(leaf.value.shape)


def test_bfloat16_keeps_weights_and_codes_exact(tiny):
  _, params, images, codes = tiny
  half = make_tokenizer(
    dataclasses.replace(TINY, compute_dtype='bfloat16'), SIDE
  )
  features = jax.jit(half.encode_features)(params, images)
  exact = jax.jit(make_tokenizer(TINY, SIDE).encode_features)(params, images)
  assert features.dtype == jnp.float32
  np.testing.assert_allclose(features, exact, atol=0.1 * np.abs(exact).max())
  shapes = jax.eval_shape(lambda: half.init(jax.random.key(0), SIDE))
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}
  assert half.decode(params, codes).dtype == jnp.float32


@pytest.mark.parametrize('groups', [2, 8])
def test_group_norm(groups):
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 8)) * 3 + 1
  norm = convnet.GroupNorm(groups, 1e-6, jnp.float32)
  scale, bias = jnp.arange(8.0), jnp.arange(8.0) - 4
  found = norm.apply({'params': {'scale': scale, 'bias': bias}}, x)
  grouped = np.asarray(x).reshape(2, 15, groups, 8 // groups)
  mean = grouped.mean((1, 3), keepdims=True)
  std = np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-6)
  expected = ((grouped - mean) / std).reshape(x.shape)
  expected = expected * np.asarray(scale) + np.asarray(bias)
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('side', [5, 48])
def test_group_norm_keeps_its_digits_far_from_zero(side):
  rng = np.random.default_rng(0)
  x = rng.normal((1e3, -1e3, 0, 5e2), size=(2, side, side, 4))
  x[0, 0, 0, 2] = 50.0  # One pixel of the coarse grid is like no other.
  norm = convnet.GroupNorm(4, 1e-6, jnp.float32)
  params = {'scale': jnp.ones(4), 'bias': jnp.zeros(4)}
  x = x.astype(np.float32)
  found = jax.jit(norm.apply)({'params': params}, x)
  exact = x.astype(np.float64)
  exact -= exact.mean((1, 2), keepdims=True)
  exact /= np.sqrt(exact.var((1, 2), keepdims=True) + 1e-6)
  # A value near 1000 has six digits behind its first three and a half.
  np.testing.assert_allclose(found, exact, atol=2e-4)


def test_the_gradient_of_group_norm_is_that_of_two_passes():
  x = jax.random.normal(jax.random.key(0), (2, 20, 18, 6)) + 2
  weight = jax.random.normal(jax.random.key(1), x.shape)
  norm = convnet.GroupNorm(3, 1e-6, jnp.float32)
  params = {'scale': jnp.arange(1.0, 7.0), 'bias': jnp.zeros(6)}

  def plain(x):
    grouped = x.reshape(2, 360, 3, 2)
    mean = jnp.mean(grouped, (1, 3), keepdims=True)
    variance = jnp.var(grouped, (1, 3), keepdims=True)
    unit = (grouped - mean) / jnp.sqrt(variance + 1e-6)
    return unit.reshape(x.shape) * params['scale'][None, None, None]

  def one_pass(x):
    return norm.apply({'params': params}, x)

  found, wanted = (
    jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x) * weight)))(x)
    for f in (one_pass, plain)
  )
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_enlarging_and_convolving_are_one_step():
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 4))
  bias = jnp.arange(4.0)
  weight = jax.random.normal(jax.random.key(2), (2, 6, 10, 4))
  found, wanted = (
    jax.jit(
      jax.value_and_grad(
        lambda *args, f=f: jnp.sum(f(*args) * weight), (0, 1, 2)
      )
    )(x, kernel, bias)
    for f in (enlarge.in_one_step, enlarge.in_two_steps)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-5),
    found,
    wanted,
  )
  half = enlarge.in_one_step(x.astype(jnp.bfloat16), kernel, bias)
  assert half.dtype == jnp.bfloat16
  exact = enlarge.in_two_steps(x, kernel, bias)
  np.testing.assert_allclose(
    half.astype(jnp.float32), exact, atol=0.02 * np.abs(exact).max()
  )


def test_dropout_needs_a_key(tiny):
  _, params, images, _ = tiny
  spec = dataclasses.replace(TINY, dropout=0.5)
  tokenizer = make_tokenizer(spec, SIDE)
  encode = jax.jit(tokenizer.encode_features)
  plain = encode(params, images)
  dropped = encode(params, images, jax.random.key(0))
  assert np.abs(plain - dropped).max() > 1e-4


@pytest.mark.parametrize(
  ('changes', 'resolution', 'message'),
  [
    ({'kind': 'vqq'}, 8, "tokenizer.kind='vqq'"),
    ({'kind': 'vq'}, 8, 'tokenizer.scales'),
    ({'codes_per_position': 2}, 8, 'tokenizer.codes_per_position=2'),
    ({'entropy': 0.1}, 8, 'tokenizer.entropy=0.1'),
    ({'compute_dtype': 'half'}, 8, "tokenizer.compute_dtype='half'"),
    ({'phi_ratio': 1.5}, 8, 'tokenizer.phi_ratio'),
    ({'phi_count': -1}, 8, 'tokenizer.phi_count'),
    ({'quant_conv_size': 2}, 8, 'tokenizer.quant_conv_size'),
    ({}, 16, 'tokenizer.scales'),
    ({}, (8, 16), 'tokenizer.scales'),
  ],
)
def test_bad_specs_are_refused(changes, resolution, message):
  spec = dataclasses.replace(TINY, **changes)
  with pytest.raises(errors.ConfigError, match=message):
    make_tokenizer(spec, resolution)


def test_rectangular_images_are_accepted():
  spec = dataclasses.replace(TINY, scales=((1, 1), (2, 3)))
  tokenizer = make_tokenizer(spec, (4, 6))
  assert tokenizer.code_spec.positions == 7


def test_the_id_follows_content(tiny):
  _, params, _, _ = tiny
  name = tokenizer_id(TINY, params)
  assert len(name) == 16
  copied = jax.tree.map(lambda x: np.array(x), params)
  assert tokenizer_id(TINY, copied) == name
  copied['quantizer']['embedding'][3, 1] += 1e-7
  assert tokenizer_id(TINY, copied) != name
  for change in ({'znorm': True}, {'compute_dtype': 'bfloat16'}):
    other = dataclasses.replace(TINY, **change)
    assert tokenizer_id(other, params) != name


def test_ids_of_old_tokenizers_are_kept():
  """Fields that came later do not change the id while they are unset."""
  weights = {'x': np.arange(3, dtype=np.float32)}
  assert tokenizer_id(TINY, weights) == 'b732a10fa2557455'

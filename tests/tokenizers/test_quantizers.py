"""What every quantizer on one grid must do, and the closed forms of each."""

import dataclasses

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quantizer_cases as cases

from varjax import flops, tokenizer_rules
from varjax.spec import TokenizerSpec
from varjax.tokenizers import TOKENIZERS, base, codebook, make_tokenizer
from varjax.tokenizers.autoencoder import QUANTIZERS


@pytest.fixture(params=cases.SPECS, scope='module')
def case(request):
  spec = cases.SPECS[request.param]
  quantizer, f = cases.quantizer(spec), cases.features(spec)
  return spec, quantizer, f, quantizer.quantize(f)


def test_the_tables_name_the_same_kinds():
  assert set(TOKENIZERS) == set(tokenizer_rules.KINDS)
  assert set(QUANTIZERS) <= set(TOKENIZERS)


def test_codes_are_what_the_spec_says(case):
  spec, quantizer, f, quantized = case
  expected = base.code_spec(spec)
  shape = (cases.BATCH, expected.positions, expected.codes_per_position)
  codes = quantizer.encode(f)
  assert codes.shape == shape
  assert codes.dtype == jnp.int32
  assert 0 <= int(codes.min()) <= int(codes.max()) < spec.vocab
  np.testing.assert_array_equal(codes, quantized.codes)


def test_decoded_codes_are_the_training_features(case):
  """So the decoder sees the same in training, and codes survive."""
  spec, quantizer, _, quantized = case
  decoded = quantizer.decode(quantized.codes)
  np.testing.assert_allclose(decoded, quantized.features, atol=1e-6)
  sums = quantizer.partial_sums(quantized.codes)
  np.testing.assert_array_equal(sums[-1], decoded)
  assert len(sums) == (spec.codes_per_position if spec.kind == 'rq' else 1)
  rows = decoded.reshape(cases.BATCH, -1, spec.code_dim)
  np.testing.assert_allclose(quantizer.embed(quantized.codes), rows, atol=1e-6)
  if spec.kind != 'rq':
    # A residual stack may find a better sum for a sum of codes.
    again = quantizer.encode(_uncompressed(spec, decoded))
    np.testing.assert_array_equal(again, quantized.codes)


def _uncompressed(spec, features):
  """Encoder features that give these decoder features."""
  if spec.kind != 'fsq':
    return features
  levels = np.array(spec.levels)
  half = (levels - 1) * (1 + 1e-3) / 2
  offset = np.where(levels % 2, 0, 0.5)
  value = (np.asarray(features) * (levels // 2) + offset) / half
  return jnp.asarray(np.arctanh(value) - np.arctanh(offset / half), jnp.float32)


def test_all_gradients_are_finite(case):
  _, quantizer, f, _ = case

  def objective(quantizer, f):
    quantized = quantizer.quantize(f)
    return quantized.loss + jnp.mean(jnp.square(quantized.features - 1))

  slope = jax.jit(jax.grad(objective, (0, 1)))
  for inputs in (f, jnp.zeros_like(f)):
    grads = slope(quantizer, inputs)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_costs_equal_the_initialised_weights(case):
  spec = case[0]
  tokenizer = make_tokenizer(spec, (4, 6))
  params = jax.eval_shape(
    lambda: meta.unbox(tokenizer.init(jax.random.key(0), 4))
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert flops.tokenizer_parameter_counts(spec).total == count
  images = jax.ShapeDtypeStruct((2, 4, 6, 3), jnp.float32)
  codes = jax.eval_shape(tokenizer.encode, params, images)
  decoded = jax.eval_shape(tokenizer.decode, params, codes)
  assert decoded.shape == images.shape


def test_llamagen_has_its_size():
  """VQ-16 and VQ-8 of LlamaGen: 72M and 70M parameters in its model card."""
  spec = TokenizerSpec(
    kind='vq', ch=128, ch_mult=(1, 1, 2, 2, 4), scales=(16,), code_dim=8,
    latent_dim=256, vocab=16384, quant_conv_size=1, znorm=True,
  )  # fmt: skip
  for mult, side, total in (
    (spec.ch_mult, 16, 71_883_403), ((1, 2, 2, 4), 32, 70_109_835),
  ):  # fmt: skip
    model = dataclasses.replace(spec, ch_mult=mult, scales=(side,))
    counts = flops.tokenizer_parameter_counts(model)
    assert counts.codebook == 131_072
    assert counts.quant_conv == 256 * 8 + 8
    assert counts.post_quant_conv == 256 * 8 + 256
    params = jax.eval_shape(
      lambda model=model: make_tokenizer(model, 256).init(
        jax.random.key(0), 256
      )
    )
    assert sum(x.size for x in jax.tree.leaves(params)) == counts.total
    assert counts.total == total


def _rows(x):
  return np.asarray(x, np.float64).reshape(-1, x.shape[-1])


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize('znorm', [False, True])
def test_vq_follows_its_definition(znorm):
  spec = cases.spec('vq', znorm=znorm, commitment=0.4)
  quantizer, f = cases.quantizer(spec), cases.features(spec)
  normal = _unit if znorm else (lambda x: x)
  z, table = normal(_rows(f)), normal(_rows(quantizer.codebook))
  codes = np.argmin(((z[:, None] - table[None]) ** 2).sum(-1), -1)
  quantized = quantizer.quantize(f)
  np.testing.assert_array_equal(np.ravel(quantized.codes), codes)
  error = z - table[codes]
  np.testing.assert_allclose(quantized.loss, 1.4 * (error**2).mean(), rtol=1e-5)
  np.testing.assert_allclose(_rows(quantized.features), table[codes], atol=1e-6)

  slope = jax.grad(lambda f: quantizer.quantize(f).loss)(f)
  through = 0.4 * 2 * error / error.size
  np.testing.assert_allclose(
    _rows(slope), _pull_back(f, through, znorm), atol=1e-7
  )


@pytest.mark.parametrize('znorm', [False, True])
def test_vq_is_straight_through(znorm):
  spec = cases.spec('vq', znorm=znorm)
  quantizer, f = cases.quantizer(spec), cases.features(spec)
  probe = cases.features(spec, seed=2)

  def decoder_side(quantizer, f):
    return jnp.sum(quantizer.quantize(f).features * probe)

  weights, slope = jax.grad(decoder_side, (0, 1))(quantizer, f)
  assert not np.any(weights.codebook)
  np.testing.assert_allclose(
    _rows(slope), _pull_back(f, _rows(probe), znorm), atol=1e-6
  )


def _pull_back(f, slope, znorm):
  """A gradient at the (normalised) features as one at the features."""
  if not znorm:
    return slope
  z = _rows(f)
  along = np.sum(_unit(z) * slope, -1, keepdims=True) * _unit(z)
  return (slope - along) / np.linalg.norm(z, axis=-1, keepdims=True)


def test_the_codebook_moves_to_its_features():
  spec = cases.spec('vq')
  quantizer, f = cases.quantizer(spec), cases.features(spec)
  found = jax.grad(lambda q: q.quantize(f).loss)(quantizer).codebook
  z, table = _rows(f), _rows(quantizer.codebook)
  codes = np.ravel(quantizer.encode(f))
  expected = np.zeros_like(table)
  np.add.at(expected, codes, 2 * (table[codes] - z) / z.size)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_entropy_penalty_by_hand():
  """Two vectors, each on its own code: sure, and evenly used."""
  table = jnp.asarray([[1.0, 0], [-1, 0]])
  far = codebook.entropy_penalty(table, table, 1e-3, 1.0)
  np.testing.assert_allclose(far, -np.log(2), rtol=1e-5)
  # One code for all: sure but never diverse.
  same = codebook.entropy_penalty(table[:1], table, 1e-3, 1.0)
  np.testing.assert_allclose(same, 0, atol=1e-5)
  # Between the codes: as unsure as can be, and that is subtracted again.
  middle = codebook.entropy_penalty(jnp.zeros((4, 2)), table, 1.0, 0.25)
  np.testing.assert_allclose(middle, 0.75 * np.log(2), rtol=1e-5)
  slope = jax.grad(lambda z: codebook.entropy_penalty(z, table, 1e-3, 1.0))(
    table
  )
  assert np.isfinite(slope).all()


def test_rq_follows_its_definition():
  spec = cases.SPECS['rq']
  quantizer, f = cases.quantizer(spec), cases.features(spec)
  z, table = _rows(f), _rows(quantizer.codebook)
  rest, loss = z, 0.0
  found = np.asarray(quantizer.encode(f)).reshape(-1, 3)
  for level in range(3):
    codes = np.argmin(((rest[:, None] - table[None]) ** 2).sum(-1), -1)
    np.testing.assert_array_equal(found[:, level], codes)
    rest = rest - table[codes]
    loss += 1.25 * (rest**2).mean() / 3
  quantized = quantizer.quantize(f)
  np.testing.assert_allclose(quantized.loss, loss, rtol=1e-5)
  np.testing.assert_allclose(_rows(quantized.features), z - rest, atol=1e-5)
  assert quantized.searched.shape == (cases.BATCH, 6, 3, 4)
  # The first codes alone are a coarser image of the same features.
  first = quantizer.embed(quantizer.encode(f)[..., :1])
  np.testing.assert_allclose(_rows(first), table[found[:, 0]], atol=1e-6)


def test_rq_with_one_code_is_vq():
  plain, stack = cases.spec('vq'), cases.spec('rq')
  f = cases.features(plain)
  for name in ('codes', 'features', 'loss'):
    np.testing.assert_allclose(
      getattr(cases.quantizer(plain).quantize(f), name),
      getattr(cases.quantizer(stack).quantize(f), name),
      rtol=1e-6,
    )


def test_rq_is_straight_through_with_cumulative_commitment():
  spec = cases.SPECS['rq']
  quantizer, f = cases.quantizer(spec), cases.features(spec)
  probe = cases.features(spec, seed=2)
  slope = jax.grad(lambda f: jnp.sum(quantizer.quantize(f).features * probe))(f)
  np.testing.assert_allclose(slope, probe, atol=1e-6)
  slope = jax.grad(lambda f: quantizer.quantize(f).loss)(f)
  sums = quantizer.partial_sums(quantizer.encode(f))
  expected = sum(0.25 * 2 * (f - total) / f.size for total in sums) / 3
  np.testing.assert_allclose(slope, expected, atol=1e-7)


def test_flops_differ_by_what_is_looked_up():
  """All else is the same network, so kinds differ by 2 C V for each code."""

  def work(kind, what, **changes):
    spec = cases.spec(kind, code_dim=6, **changes)
    return flops.tokenizer_flops_per_image(spec, what)

  free = {what: work('lfq', what, vocab=64) for what in ('encode', 'train')}
  lookup = 2 * 6 * 100 * 6  # 6 positions, 100 codes of 6 channels
  for what, without in free.items():
    assert work('vq', what, vocab=100) == without + lookup
    stack = work('rq', what, vocab=100, codes_per_position=3)
    assert stack == without + 3 * lookup
    assert work('bsq', what, vocab=64) == without
  # The penalty of a learned codebook forms all distances, and their slopes.
  penalised = work('vq', 'train', vocab=100, entropy=0.1)
  assert penalised == free['train'] + lookup + 3 * lookup
  assert work('lfq', 'train', vocab=64, entropy=0.1) == free['train']
  assert work('vq', 'decode', vocab=100) == work('lfq', 'decode', vocab=64)
  assert work('vq', 'features', vocab=100) == 0

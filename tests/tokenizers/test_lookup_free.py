"""Quantizers without a codebook: bijections, bounds, entropies, no table."""

import dataclasses
import itertools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quantizer_cases as cases

from varjax import errors, tokenizer_rules
from varjax.tokenizers import bits, codebook, fsq, nearest
from varjax.tokenizers.autoencoder import QUANTIZERS

LARGE = {
  'fsq': cases.spec(
    'fsq', levels=(8, 8, 8, 8, 8, 8), code_dim=6, vocab=1 << 18
  ),
  'lfq': cases.spec('lfq', code_dim=18, vocab=1 << 18, entropy=0.1,
                    entropy_bits=9),
  'bsq': cases.spec('bsq', code_dim=18, vocab=1 << 18, entropy=0.1),
}  # fmt: skip


@pytest.mark.parametrize('kind', LARGE)
def test_no_table_of_codes_in_the_program(kind):
  """No weight, constant or intermediate is as large as the vocabulary."""
  spec = LARGE[kind]
  tokenizer_rules.check(spec)
  assert not QUANTIZERS[kind].init(spec, jax.random.key(0))
  quantizer, f = cases.quantizer(spec), cases.features(spec)
  assert not jax.tree.leaves(quantizer)

  def program(f):
    def loss(f):
      quantized = quantizer.quantize(f)
      return jnp.sum(quantized.features) + quantized.loss, quantized.codes

    (_, codes), slope = jax.value_and_grad(loss, has_aux=True)(f)
    return quantizer.encode(f), quantizer.decode(codes), slope

  sizes = [
    np.prod(variable.aval.shape, dtype=int)
    for variable in _variables(jax.make_jaxpr(program)(f))
  ]
  assert len(sizes) > 20
  assert max(sizes) < spec.vocab // 8


def _variables(closed):
  """Every array of a jaxpr, its inputs, constants and inner jaxprs too."""
  jaxpr = closed.jaxpr if hasattr(closed, 'jaxpr') else closed
  yield from (*jaxpr.invars, *jaxpr.constvars)
  for equation in jaxpr.eqns:
    yield from equation.outvars
    yield from (v for v in equation.invars if hasattr(v, 'val'))
    for value in equation.params.values():
      for inner in value if isinstance(value, tuple | list) else [value]:
        if hasattr(inner, 'eqns') or hasattr(inner, 'jaxpr'):
          yield from _variables(inner)


def test_the_check_sees_a_table():
  """A quantizer with a codebook fails the test above."""
  spec = cases.spec('vq', vocab=1 << 12)
  quantizer, f = cases.quantizer(spec), cases.features(spec)
  sizes = [
    np.prod(v.aval.shape, dtype=int)
    for v in _variables(jax.make_jaxpr(quantizer.encode)(f))
  ]
  assert max(sizes) >= spec.vocab


@pytest.mark.parametrize('kind', ['fsq', 'lfq', 'bsq'])
def test_every_code_has_its_own_vector(kind):
  """Index to vector and back is the identity on the whole vocabulary."""
  spec = dataclasses.replace(
    cases.SPECS[kind], codes_per_position=1, entropy=0.0
  )
  if kind != 'fsq':
    spec = dataclasses.replace(spec, vocab=1 << spec.code_dim)
  quantizer = cases.quantizer(spec)
  every = jnp.arange(spec.vocab, dtype=jnp.int32)[None, :, None]
  vectors = np.asarray(quantizer.embed(every))[0]
  assert len(np.unique(vectors, axis=0)) == spec.vocab
  if kind == 'fsq':
    again = quantizer._index(vectors[None] * quantizer._half)
  else:
    again = bits.pack(vectors[None] > 0, 1)
  np.testing.assert_array_equal(again, every)


def test_fsq_counts_the_first_channel_fastest():
  quantizer = cases.quantizer(cases.SPECS['fsq'])  # levels 5, 4, 3
  np.testing.assert_array_equal(fsq.radix((5, 4, 3)), [1, 5, 20])
  vectors = quantizer.embed(jnp.asarray([[[0], [1], [5], [20], [59]]]))[0]
  np.testing.assert_allclose(
    vectors,
    [[-1, -1, -1], [-0.5, -1, -1], [-1, -0.5, -1], [-1, -1, 0], [1, 0.5, 1]],
  )


@hypothesis.given(st.lists(st.integers(2, 9), min_size=1, max_size=4))
@hypothesis.settings(deadline=None, max_examples=6)
def test_fsq_rounds_to_every_level_and_no_other(levels):
  z = jnp.asarray(np.linspace(-30, 30, 4001), jnp.float32)
  z = jnp.broadcast_to(z[None, :, None], (1, 4001, len(levels)))
  digits = np.round(np.asarray(fsq.bound(z, tuple(levels))))[0]
  for channel, count in enumerate(levels):
    expected = np.arange(count) - count // 2
    np.testing.assert_array_equal(np.unique(digits[:, channel]), expected)
  zero = fsq.bound(jnp.zeros((1, 1, len(levels))), tuple(levels))
  np.testing.assert_allclose(zero, 0, atol=1e-6)


def test_fsq_gradient_is_that_of_the_bound():
  spec = cases.SPECS['fsq']
  quantizer, f = cases.quantizer(spec), cases.features(spec)
  probe = cases.features(spec, seed=2)
  found = jax.grad(lambda f: jnp.sum(quantizer.quantize(f).features * probe))(f)
  step = 1e-2
  half = np.array(spec.levels) // 2
  bound = [
    np.asarray(fsq.bound(f.reshape(3, -1, 3) + s, spec.levels))
    for s in (step, -step)
  ]
  slope = ((bound[0] - bound[1]) / (2 * step)).reshape(f.shape) / half
  np.testing.assert_allclose(found, slope * probe, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize('kind', ['lfq', 'bsq'])
def test_binary_codes_are_signs(kind):
  spec = dataclasses.replace(cases.SPECS[kind], entropy=0.0)
  quantizer, f = cases.quantizer(spec), cases.features(spec)
  probe = cases.features(spec, seed=2)
  size = spec.code_dim**-0.5 if kind == 'bsq' else 1
  z = np.asarray(f, np.float64)
  if kind == 'bsq':
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
  expected = np.sign(z) * size
  quantized = quantizer.quantize(f)
  np.testing.assert_allclose(quantized.features, expected, atol=1e-6)
  np.testing.assert_allclose(
    quantized.loss, 0.25 * ((z - expected) ** 2).mean(), rtol=1e-5
  )
  if kind == 'bsq':
    norms = jnp.linalg.norm(quantizer.decode(quantized.codes), axis=-1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)
  found = jax.grad(lambda f: jnp.sum(quantizer.quantize(f).features * probe))(f)
  through = (lambda f: nearest.unit(f)) if kind == 'bsq' else (lambda f: f)
  slope = jax.grad(lambda f: jnp.sum(through(f) * probe))(f)
  np.testing.assert_allclose(found, slope, atol=1e-6)


@hypothesis.given(st.data(), st.integers(1, 4), st.integers(1, 6))
@hypothesis.settings(deadline=None, max_examples=6)
def test_packing_bits_is_a_bijection(data, codes, width):
  rows = data.draw(
    st.lists(
      st.lists(st.booleans(), min_size=codes * width, max_size=codes * width),
      min_size=1, max_size=5,
    )
  )  # fmt: skip
  signs = jnp.asarray(rows)[None]
  packed = bits.pack(signs, codes)
  assert packed.shape == (1, len(rows), codes)
  assert int(packed.max()) < 1 << width
  np.testing.assert_array_equal(bits.unpack(packed, width), signs)


def test_entropy_of_bits_equals_that_over_all_codes():
  """With all channels together, the sum over the explicit codebook."""
  z = cases.features(cases.SPECS['lfq'])[0].reshape(1, -1, 6)
  table = np.array(list(itertools.product((-0.5, 0.5), repeat=6)), np.float32)
  explicit = codebook.entropy_penalty(z[0], jnp.asarray(table), 0.7, 0.3)
  exact = bits.entropy_penalty(z, 0.5, 0.7, 0.3, group=6)
  np.testing.assert_allclose(exact, explicit, rtol=1e-5)
  # Independent groups can only overestimate how evenly codes are used.
  penalties = [
    float(bits.entropy_penalty(z, 0.5, 0.7, 0.3, group)) for group in (6, 3, 1)
  ]
  assert penalties == sorted(penalties, reverse=True)
  assert penalties[0] > penalties[-1]


@pytest.mark.parametrize(
  ('kind', 'changes', 'message'),
  [
    ('fsq', {'levels': ()}, 'tokenizer.levels'),
    ('fsq', {'levels': (5, 1, 3)}, 'tokenizer.levels'),
    ('fsq', {'vocab': 61}, 'tokenizer.vocab=61: must be 60'),
    ('fsq', {'code_dim': 4}, 'tokenizer.code_dim=4: must be 3'),
    ('lfq', {'vocab': 32}, 'tokenizer.vocab=32: must be 64'),
    ('lfq', {'entropy_bits': 4}, 'tokenizer.entropy_bits=4'),
    ('bsq', {'codes_per_position': 4}, 'tokenizer.codes_per_position=4'),
    ('bsq', {'revive_every': 5}, 'tokenizer.revive_every=5'),
    ('vq', {'levels': (2, 2)}, 'tokenizer.levels'),
    ('lfq', {'code_dim': 25, 'vocab': 1 << 25, 'entropy_bits': 1},
     'at most 16777216'),
  ],
)  # fmt: skip
def test_impossible_alphabets_are_refused(kind, changes, message):
  spec = dataclasses.replace(cases.SPECS[kind], **changes)
  with pytest.raises(errors.ConfigError, match=message):
    tokenizer_rules.check(spec)

"""The multi-scale quantiser: its rules, on random weights."""

import dataclasses
import json

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax.tokenizers import msvq, nearest
from varjax.tokenizers.resize import resize

SQUARE = ((1, 1), (2, 2), (3, 3), (5, 5))
RECTANGLES = ((2, 1), (2, 3), (4, 3), (4, 6))
ONE = ((4, 4),)
VOCAB, DIM, BATCH = 24, 4, 3


def _quantizer(grids, count=4, ratio=0.5, znorm=False):
  rng = np.random.default_rng(len(grids))
  modules = msvq.phi_modules(len(grids), count, ratio)
  return msvq.Quantizer(
    codebook=jnp.asarray(rng.normal(size=(VOCAB, DIM)), jnp.float32),
    phi_kernel=jnp.asarray(
      rng.normal(size=(modules, 3, 3, DIM, DIM)) * 0.1, jnp.float32
    ),
    phi_bias=jnp.asarray(rng.normal(size=(modules, DIM)) * 0.1, jnp.float32),
    grids=grids,
    phi_count=count,
    phi_ratio=ratio,
    znorm=znorm,
  )


def _features(grids, seed=0):
  shape = (BATCH, *grids[-1], DIM)
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


CASES = [
  _quantizer(SQUARE),
  _quantizer(SQUARE, count=1, znorm=True),
  _quantizer(SQUARE, count=0, ratio=0.8),
  _quantizer(RECTANGLES, count=3, ratio=0.25),
  _quantizer(RECTANGLES, ratio=0.0),
  _quantizer(ONE, count=0),
]


@pytest.fixture(params=CASES, ids=lambda q: f'{len(q.grids)}-{q.phi_count}')
def quantizer(request):
  return request.param


def test_phi_index_agrees_with_upstream(parity_dir):
  table = json.loads((parity_dir / 'phi_index.json').read_text())
  checked = 0
  for count, rows in table.items():
    for scales, expected in rows.items():
      found = msvq.phi_index(int(scales), int(count))
      assert list(found) == expected, (count, scales)
      checked += 1
  assert checked > 20


def test_phi_index_breaks_ties_by_rounding():
  assert msvq.phi_index(10, 4) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
  assert msvq.phi_index(5, 4) == (0, 1, 2, 2, 3)


def test_phi_index_special_counts():
  assert msvq.phi_index(6, 1) == (0,) * 6
  assert msvq.phi_index(6, 0) == (0, 1, 2, 3, 4, 5)
  assert msvq.phi_index(1, 4) == (0,)
  assert msvq.phi_modules(6, 0, 0.5) == 6
  assert msvq.phi_modules(6, 4, 0.0) == 0


def test_encode_follows_the_definition(quantizer):
  """A literal NumPy version of the algorithm finds the same codes."""
  f = _features(quantizer.grids)
  codes = msvq.split(quantizer, msvq.encode(quantizer, f))
  codebook = np.asarray(quantizer.codebook, np.float64)
  rest = np.asarray(f, np.float64)
  for step, (grid, code) in enumerate(zip(quantizer.grids, codes, strict=True)):
    z = np.asarray(resize(jnp.asarray(rest, jnp.float32), grid, 'area'))
    z = z.reshape(BATCH, -1, 1, DIM).astype(np.float64)
    if quantizer.znorm:
      unit = [
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (z, codebook)
      ]
      expected = np.argmax(np.sum(unit[0] * unit[1][None, None], -1), -1)
    else:
      distance = np.sum((z - codebook[None, None]) ** 2, -1)
      expected = np.argmin(distance, -1)
    np.testing.assert_array_equal(code[..., 0], expected)
    rest = rest - np.asarray(
      msvq.contribution(quantizer, msvq.embed(quantizer, code), step)
    )


def test_codes_have_the_documented_shape(quantizer):
  codes = msvq.encode(quantizer, _features(quantizer.grids))
  positions = sum(h * w for h, w in quantizer.grids)
  assert codes.shape == (BATCH, positions, 1)
  assert codes.dtype == jnp.int32
  assert 0 <= int(codes.min()) <= int(codes.max()) < VOCAB


def test_partial_sums_add_up(quantizer):
  codes = msvq.encode(quantizer, _features(quantizer.grids))
  sums = msvq.partial_sums(quantizer, codes)
  parts = [
    msvq.contribution(quantizer, msvq.embed(quantizer, code), step)
    for step, code in enumerate(msvq.split(quantizer, codes))
  ]
  np.testing.assert_allclose(sums[-1], sum(parts), atol=1e-5)
  np.testing.assert_array_equal(msvq.sum_codes(quantizer, codes), sums[-1])
  assert np.isfinite(sums[-1]).all()


def test_teacher_inputs_equal_advancing_step_by_step(quantizer):
  codes = msvq.encode(quantizer, _features(quantizer.grids))
  f_hat, inputs = msvq.start(quantizer, BATCH), []
  for step, code in enumerate(msvq.split(quantizer, codes)):
    f_hat, reduced = msvq.advance(
      quantizer, f_hat, msvq.embed(quantizer, code), step
    )
    if reduced is not None:
      inputs.append(reduced)
  assert reduced is None
  teacher = msvq.teacher_inputs(quantizer, codes)
  first = quantizer.grids[0][0] * quantizer.grids[0][1]
  assert teacher.shape == (BATCH, codes.shape[1] - first, DIM)
  if inputs:
    np.testing.assert_array_equal(teacher, jnp.concatenate(inputs, 1))
  np.testing.assert_allclose(f_hat, msvq.sum_codes(quantizer, codes), atol=1e-6)


def test_grown_sums_have_the_scales_sizes(quantizer):
  codes = msvq.encode(quantizer, _features(quantizer.grids))
  grown = msvq.grow_sums(quantizer, codes)
  assert [g.shape[1:3] for g in grown] == list(quantizer.grids)


def test_a_coarser_residual_is_explained_better_by_more_scales():
  """With a fine codebook every scale lowers the error."""
  quantizer = _quantizer(SQUARE, ratio=0.0)
  rng = np.random.default_rng(1)
  grid = rng.normal(size=(4096, DIM)) * rng.uniform(size=(4096, 1))
  grid[0] = 0
  quantizer = quantizer.replace(codebook=jnp.asarray(grid, jnp.float32))
  f = _features(SQUARE)
  sums = msvq.partial_sums(quantizer, msvq.encode(quantizer, f))
  errors = [float(jnp.mean(jnp.square(s - f))) for s in sums]
  assert errors[-1] < 0.2 * errors[0]


def test_training_forward(quantizer):
  f = _features(quantizer.grids)
  quantized = msvq.quantize(quantizer, f, 0.25)
  codes = msvq.encode(quantizer, f)
  np.testing.assert_array_equal(quantized.codes, codes)
  sums = msvq.partial_sums(quantizer, codes)
  np.testing.assert_allclose(quantized.features, sums[-1], atol=1e-5)
  expected = 1.25 * np.mean([np.mean((s - f) ** 2) for s in sums])
  np.testing.assert_allclose(quantized.loss, expected, rtol=1e-5)
  rows = jnp.sum(jnp.square(quantized.searched), -1)
  assert rows.shape == codes.shape


def test_gradient_is_straight_through():
  quantizer = CASES[0]
  f = _features(SQUARE)
  probe = _features(SQUARE, seed=1)

  def decoder_side(quantizer, f):
    return jnp.sum(msvq.quantize(quantizer, f, 0.25).features * probe)

  weights, features = jax.grad(decoder_side, (0, 1))(quantizer, f)
  np.testing.assert_allclose(features, probe, atol=1e-6)
  assert all(not np.any(g) for g in jax.tree.leaves(weights))

  def loss(quantizer, f):
    return msvq.quantize(quantizer, f, 0.25).loss

  weights, features = jax.grad(loss, (0, 1))(quantizer, f)
  assert all(np.any(g) for g in jax.tree.leaves((weights, features)))
  # beta scales the commitment gradient, which alone reaches the features.
  doubled = jax.grad(lambda f: msvq.quantize(quantizer, f, 0.5).loss)(f)
  np.testing.assert_allclose(doubled, 2 * features, rtol=1e-5, atol=1e-9)


@hypothesis.given(
  st.integers(1, 40), st.integers(1, 30), st.booleans(), st.integers(0, 99)
)
@hypothesis.settings(deadline=None, max_examples=10)
def test_blocked_search_equals_argmax(count, vocab, ties, seed):
  rng = np.random.default_rng(seed)
  draw = (
    rng.integers(-2, 3, (count + vocab, 3))
    if ties
    else rng.normal(size=(count + vocab, 3))
  )
  rows, entries = jnp.split(jnp.asarray(draw, jnp.float32), [count])
  expected = jnp.argmax(nearest._scores(rows, entries), -1)
  for search in (nearest._search, nearest._search_on_cpu):
    blocks = search(rows, entries, elements=4 * vocab)
    np.testing.assert_array_equal(blocks, expected)


def test_scores_are_never_formed_at_once():
  rows, entries = jnp.zeros((1000, 3)), jnp.zeros((50, 3))
  for search in (nearest._search, nearest._search_on_cpu):
    text = str(jax.make_jaxpr(lambda r, s=search: s(r, entries, 5000))(rows))
    assert '[100,50]' in text
    assert '[1000,50]' not in text


def test_search_survives_nan():
  z = jnp.full((1, 2, DIM), jnp.nan)
  codes = nearest.nearest(z, CASES[0].codebook)
  assert 0 <= int(codes.min()) <= int(codes.max()) < VOCAB


def test_quantizer_is_a_pytree_with_static_settings():
  quantizer = CASES[0]
  assert len(jax.tree.leaves(quantizer)) == 3
  other = dataclasses.replace(quantizer, znorm=True)
  assert jax.tree.structure(other) != jax.tree.structure(quantizer)

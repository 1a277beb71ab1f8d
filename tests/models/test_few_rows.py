"""Products of few rows, interpreted, and that every int8 layer has one."""

import functools

import gpu_program
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from varjax.models import few_rows, in_place, product, quantised
from varjax.models.weights import stored
from varjax.sampling import loop
from varjax.spec import ModelSpec, OrderSpec, SampleSpec, TokenizerSpec

_DEPTH, _INNER, _COLUMNS = 3, 96, 80


def _case(seed, rows, dtype):
  rng = np.random.default_rng(seed)
  kernel = rng.normal(0, 1, (_DEPTH, _INNER, _COLUMNS)).astype(np.float32)
  x = rng.normal(0, 1, (rows, _INNER)).astype(dtype)
  return jnp.asarray(x), quantised.of_kernel(jnp.asarray(kernel), 1)


@functools.cache
def _compiled(programs, count, out):
  run = functools.partial(
    few_rows.product, count=count, out=out, interpret=True, programs=programs
  )
  return jax.jit(run)


@settings(max_examples=15, deadline=None)
@given(
  st.integers(0, 99),
  st.sampled_from((1, 17, 70)),
  st.sampled_from((1, 64)),  # In one part, and in as many as there can be.
  st.sampled_from(((0, 3), (2, 1))),
)
def test_int8_is_the_dequantised_product(seed, rows, programs, layers):
  x, kernel = _case(seed, rows, np.float32)
  first, count = layers
  run = _compiled(programs, count, jnp.float32)
  found = run(x, kernel.values, kernel.scale, first)
  whole = np.asarray(kernel.astype('float32'), np.float64)
  expected = np.einsum('td,ldf->tlf', x, whole[first : first + count])
  np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize('int8', [True, False])
def test_bfloat16_errs_by_its_own_rounding(int8):
  x, kernel = _case(5, 40, jnp.bfloat16)
  stack, scale = kernel.values, kernel.scale
  exact = np.asarray(stack, np.float64)[1]
  if int8:
    exact = exact * np.asarray(scale, np.float64)[1]
  else:
    stack, scale = stack.astype(jnp.bfloat16), None
  found = _compiled(64, 1, jnp.bfloat16)(x, stack, scale, 1)[:, 0]
  assert found.dtype == jnp.bfloat16
  expected = np.asarray(x, np.float64) @ exact
  error = np.abs(np.asarray(found, np.float64) - expected)
  room = 1e-6 * (np.abs(np.asarray(x, np.float64)) @ np.abs(exact))
  assert np.all(error <= 2.0**-8 * np.abs(expected) + room)


@pytest.fixture
def kernels(monkeypatch):
  """The kernel wherever it can be, interpreted; the shapes it ran on."""
  shapes = []
  run = few_rows.product

  def interpreted(x, stack, scale, layer, **rest):
    shapes.append((stack.shape[1:], scale is not None))
    return run(x, stack, scale, layer, interpret=True, programs=1, **rest)

  monkeypatch.setattr(few_rows, 'product', interpreted)
  monkeypatch.setattr(in_place, 'serves', lambda _: True)
  monkeypatch.setattr(
    product, 'fits', lambda *given: given[0].dtype == jnp.float32
  )
  return shapes


@pytest.mark.parametrize('kind', ['', 'int8'])
def test_a_sampler_whose_every_layer_reads_its_stack(
  kernels, monkeypatch, kind
):
  width = 32
  model = ModelSpec(
    depth=2, width=width, heads=2, num_classes=3, compute_dtype='float32',
    mlp_ratio=2,
  )  # fmt: skip
  tokenizer = TokenizerSpec(code_dim=3, vocab=48, scales=(1, 2), phi_count=2)
  world = worlds.world(OrderSpec(), tokenizer, model, scale=0.1)
  weights = stored(world.params, 'float32', kind)

  def run(params):
    made = loop.run(
      world.model, params, world.order, world.quantizer,
      jnp.asarray([0, 2]), jax.random.key(0),
      SampleSpec(cfg=2.0, top_k=1),
    )  # fmt: skip
    return made.codes, made.logits

  found = jax.jit(run)(weights)
  sizes = {shape for shape, _ in kernels}
  blocks = {
    (width, 3 * width), (width, width), (width, 2 * width), (2 * width, width)
  }  # fmt: skip
  others = {(width, 6 * width), (width, 48)}
  assert sizes == (blocks | others if kind else blocks)
  assert all(scaled == bool(kind) for _, scaled in kernels)
  monkeypatch.setattr(in_place, 'serves', lambda _: False)
  monkeypatch.setattr(product, 'fits', lambda *_: False)
  expected = jax.jit(lambda given: run(given))(weights)  # Traced anew.
  np.testing.assert_array_equal(found[0], expected[0])
  np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


def test_the_kernel_lowers_for_a_gpu_and_serves_few_rows_alone():
  kernel = quantised.Quantised(
    jax.ShapeDtypeStruct((1024, 3, 64), jnp.int8),
    jax.ShapeDtypeStruct((3, 64), jnp.float32),
    -3,
  )

  def text(rows, dtype=jnp.bfloat16):
    x = jax.ShapeDtypeStruct((2, rows, 1024), dtype)
    run = lambda x, kernel: product.product(x, kernel, dtype)  # noqa: E731
    return gpu_program.lowered(run, x, kernel)

  few = text(product.MOST_ROWS // 2)
  assert few.count('@__gpu$xla.gpu.triton') == 1
  assert 'few_rows' in few
  # No copy of the weights in the type of the rows.
  assert 'xi8>) -> tensor<1024x3x64xbf16>' not in few
  for other in (text(product.MOST_ROWS), text(4, jnp.float32)):
    assert 'few_rows' not in other

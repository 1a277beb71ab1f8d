"""Products in float8 against float32, within what their rounding must give."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from varjax.models import fp8

# Of a type: the largest number, half a step relative to a number with all its
# bits, and half a step below the smallest of those.
TYPES = {
  fp8.VALUE: (ml_dtypes.float8_e4m3fn, 448.0, 2.0**-4, 2.0**-10),
  fp8.GRADIENT: (ml_dtypes.float8_e5m2, 57344.0, 2.0**-3, 2.0**-17),
}
SHAPES = {
  'dense': ((3, 5, 48), (48, 40), 1),
  'fused': ((3, 5, 48), (48, 3, 16), 1),
  'heads': ((3, 5, 6, 8), (6, 8, 40), 2),
}


def _arrays(shapes, axes, seed=0):
  """Values, weights and a gradient, float32, of very different sizes."""
  rng = np.random.default_rng(seed)
  x, kernel = shapes
  out = (*x[: len(x) - axes], *kernel[axes:])
  # Three decades inside a tensor, so that some fall below the normal numbers.
  spread = [np.exp(rng.normal(0, 2, shape)) for shape in (x, kernel, out)]
  return [
    np.asarray(rng.normal(0, size) * some, np.float32)
    for size, some in zip((3.0, 1e-2, 1e-5), spread, strict=True)
  ]


def _rounded(x, kind):
  """By NumPy: to the top binade of the type, rounded, and back."""
  narrow, largest, _, _ = TYPES[kind]
  scale = np.exp2(np.ceil(np.log2(np.abs(x).max() / largest)))
  scaled = x.astype(np.float64) / scale
  return scaled.astype(np.float32).astype(narrow).astype(np.float64) * scale


def _error(x, kind):
  """The most that rounding moves each number of x."""
  _, largest, relative, absolute = TYPES[kind]
  scale = np.exp2(np.ceil(np.log2(np.abs(x).max() / largest)))
  return np.maximum(relative * np.abs(x), absolute * scale)


def _with_gradients(product, x, kernel, grad):
  """The product, and the gradients of its inputs."""
  out, pull = jax.vjp(product, x, kernel)
  return out, *pull(grad.astype(out.dtype))


def _products(x, kernel, grad, axes):
  """All three, of arrays of NumPy."""
  rows, columns = x.ndim - axes, kernel.ndim - axes
  last = list(range(rows, rows + columns))
  return (
    np.tensordot(x, kernel, axes),
    np.tensordot(grad, kernel, (last, list(range(axes, kernel.ndim)))),
    np.tensordot(x, grad, (list(range(rows)),) * 2),
  )


def _in_float8(axes):
  return jax.jit(
    lambda *given: _with_gradients(
      lambda x, kernel: fp8.product(x, kernel, axes), *given
    )
  )


@pytest.mark.parametrize('name', SHAPES)
def test_errors_are_those_of_rounding_each_factor(name):
  *shapes, axes = SHAPES[name]
  given = _arrays(shapes, axes)
  found = _in_float8(axes)(*given)
  wide = [array.astype(np.float64) for array in given]
  exact = _products(*wide, axes)
  kinds = (fp8.VALUE, fp8.VALUE, fp8.GRADIENT)
  apart = [_error(x, kind) for x, kind in zip(wide, kinds, strict=True)]
  # |ab - a'b'| <= (|a| + da)(|b| + db) - |a||b|, of every term of a sum.
  sizes = [np.abs(x) for x in wide]
  reached = [x + error for x, error in zip(sizes, apart, strict=True)]
  most = [
    above - below
    for above, below in zip(
      _products(*reached, axes), _products(*sizes, axes), strict=True
    )
  ]
  rounded = _products(
    *(_rounded(x, kind) for x, kind in zip(wide, kinds, strict=True)), axes
  )
  for one, same, ideal, bound in zip(found, rounded, exact, most, strict=True):
    assert one.dtype == jnp.float32
    assert one.shape == ideal.shape
    # Sums of at most 144 float32 terms.
    slack = 144 * 2.0**-24 * np.abs(ideal).max()
    assert np.all(np.abs(one - ideal) <= bound + slack)
    np.testing.assert_allclose(one, same, rtol=0, atol=slack)
    # And it is rounded: float32 would be a thousand times nearer.
    assert np.abs(one - ideal).max() > 1e3 * slack


@pytest.mark.parametrize('size', [1.0, 2.0**-90, 2.0**80])
def test_what_float8_represents_is_exact(size):
  """In every binade: the scale is a power of two."""
  rng = np.random.default_rng(0)
  # 4 bits each, so that sums of 32 products are exact in float32.
  x, kernel = (
    rng.integers(-15, 16, shape).astype(np.float32)
    for shape in ((2, 4, 32), (32, 8))
  )
  grad = rng.integers(-3, 4, (2, 4, 8)).astype(np.float32)
  given = size * x, kernel, grad / size
  found = _in_float8(1)(*given)
  expected = _products(*given, 1)
  for one, same in zip(found, expected, strict=True):
    np.testing.assert_array_equal(one, same)


def test_in_bfloat16_the_result_is_rounded_once_more():
  *shapes, axes = SHAPES['dense']
  x, kernel, grad = _arrays(shapes, axes)
  low = jnp.asarray(x, jnp.bfloat16), kernel, jnp.asarray(grad, jnp.bfloat16)
  high = (low[0].astype(jnp.float32), kernel, low[2].astype(jnp.float32))
  run = _in_float8(axes)
  for one, other in zip(run(*low), run(*high), strict=True):
    np.testing.assert_allclose(
      one.astype(jnp.float32),
      other,
      rtol=2**-8,
      atol=1e-6 * np.abs(other).max(),
    )
  # The gradient of the weights is float32, as they are.
  assert [part.dtype for part in run(*low)] == [
    jnp.bfloat16, jnp.bfloat16, jnp.float32,
  ]  # fmt: skip


@pytest.mark.parametrize('kind', TYPES)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_the_largest_number_neither_overflows_nor_leaves_a_binade_unused(
  kind, dtype
):
  _, largest, _, _ = TYPES[kind]
  finest = float(jnp.finfo(dtype).eps)

  @jax.jit
  def top(x):
    return fp8.quantised(x, kind)

  for power in range(-100, 118):
    # Around the largest mantissa of float8, and the ends of a binade.
    for mantissa in (1.0, 1.75, 1.75 * (1 + finest), 2 - finest):
      x = jnp.asarray([mantissa * 2.0**power, -1.0 * 2.0**power], dtype)
      found = top(x)
      values = np.asarray(found.values, np.float32)
      assert np.all(np.isfinite(values))
      assert largest / 2 <= values.max() <= largest
      assert float(found.scale) == 2.0 ** round(np.log2(float(found.scale)))
      np.testing.assert_allclose(
        values * np.float64(found.scale), np.asarray(x, np.float64), rtol=2**-3
      )


def test_zeros_and_tiny_numbers_give_zeros_and_nothing_worse():
  kernel = np.ones((8, 4), np.float32)
  run = _in_float8(1)
  # The second: below the normal numbers, which a CPU takes for zero.
  for x in (np.zeros((2, 8), np.float32), np.full((2, 8), 1e-40, np.float32)):
    grad = np.zeros((2, 4), np.float32)
    for part in run(x, kernel, grad):
      assert np.all(np.isfinite(part))
      assert np.abs(part).max() < 1e-37
  huge = np.full((2, 8), 3e38, np.float32)
  out, grad_x, grad_kernel = run(huge, kernel / 64, np.ones((2, 4), np.float32))
  for part, exact in (
    (out, huge.astype(np.float64) @ kernel / 64),
    (grad_x, np.full((2, 8), 4 / 64)),
  ):
    np.testing.assert_allclose(part, exact, rtol=2**-4)
  assert np.all(np.isinf(grad_kernel))  # 6e38, as in float32.


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('where', [0, 1, 2])
def test_what_is_not_finite_shows(bad, where):
  *shapes, axes = SHAPES['dense']
  given = _arrays(shapes, axes)
  given[where].flat[7] = bad
  out, grad_x, grad_kernel = _in_float8(axes)(*given)
  assert np.all(np.isnan(out)) == (where < 2)
  assert np.all(np.isnan(grad_x)) == (where > 0)
  assert np.all(np.isnan(grad_kernel)) == (where != 1)


def test_batched_and_scanned_products_are_those_of_each_part():
  x, kernel, grad = _arrays(((4, 3, 48), (48, 40)), 1)
  kernels = np.stack([kernel, 2 * kernel, kernel / 3, -kernel])
  one = _in_float8(1)
  alone = [one(*parts) for parts in zip(x, kernels, grad, strict=True)]
  expected = [np.stack(parts) for parts in zip(*alone, strict=True)]
  together = jax.jit(jax.vmap(one))(x, kernels, grad)
  _, scanned = jax.lax.scan(
    lambda carry, parts: (carry, one(*parts)), None, (x, kernels, grad)
  )
  for found in (together, scanned):
    for part, same in zip(found, expected, strict=True):
      np.testing.assert_allclose(part, same, atol=1e-6 * np.abs(same).max())


def test_the_backward_pass_keeps_bytes_and_scales():
  *shapes, axes = SHAPES['heads']
  x, kernel, _ = _arrays(shapes, axes)

  def pull(x, kernel):
    return jax.vjp(lambda *given: fp8.product(*given, axes), x, kernel)[1]

  kept = jax.tree.leaves(jax.eval_shape(pull, x, kernel))
  assert sorted((leaf.shape, leaf.dtype.name) for leaf in kept) == sorted([
    ((), 'float32'), ((), 'float32'),
    (x.shape, 'float8_e4m3fn'), (kernel.shape, 'float8_e4m3fn'),
  ])  # fmt: skip


def test_only_dense_layers_are_known():
  with pytest.raises(ValueError, match='not the product of a dense layer'):
    fp8.dot_general(
      jnp.ones((2, 3)), jnp.ones((3, 2)), (((0,), (1,)), ((), ()))
    )

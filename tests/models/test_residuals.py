"""Derivatives by hand against autodiff, and what a block keeps for them."""

from flax.core import meta
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import errors, memory
from varjax.models import activation, attention, norm, remat
from varjax.models.transformer import Transformer
from varjax.spec import ModelSpec
from varjax.types import Layout

FINE = 2e-6  # Of the largest value: float32, in another order of sums.


def _plain_norm(x, gain, centred):
  x = x.astype(jnp.float32)
  if centred:
    x = x - jnp.mean(x, axis=-1, keepdims=True)
  squared = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
  return x * lax.rsqrt(squared + norm.EPS) * gain


def _plain_unit(x, scale):
  wide = x.astype(jnp.float32)
  length = jnp.sqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True))
  return (wide / length * scale).astype(x.dtype)


def _plain_gelu(x):
  return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


def _plain_swiglu(gate, x):
  gate, wide = gate.astype(jnp.float32), x.astype(jnp.float32)
  return (gate * jax.nn.sigmoid(gate) * wide).astype(x.dtype)


ROWS, HEADS = (3, 5, 16), (2, 5, 4, 8)
CASES = {
  'layernorm, of an image': (
    lambda x, g: norm.scaled_norm(x, g, True),
    lambda x, g: _plain_norm(x, g, True),
    (ROWS, (3, 1, 16)),
  ),
  'layernorm, learned': (
    lambda x, g: norm.scaled_norm(x, g, True),
    lambda x, g: _plain_norm(x, g, True),
    (ROWS, (1, 1, 16)),
  ),
  'rmsnorm': (
    lambda x, g: norm.scaled_norm(x, g, False),
    lambda x, g: _plain_norm(x, g, False),
    (ROWS, (1, 1, 16)),
  ),
  'unit, scaled by head': (norm.unit, _plain_unit, (HEADS, (1, 1, 4, 1))),
  'unit': (norm.unit, _plain_unit, (HEADS, (1, 1, 1, 1))),
  'gelu': (activation.gelu, _plain_gelu, (ROWS,)),
  'swiglu': (activation.swiglu, _plain_swiglu, (ROWS, ROWS)),
}


def _arguments(shapes, dtype):
  rng = np.random.default_rng(0)
  first, *rest = (
    jnp.asarray(rng.normal(0.3, 1.5, shape), jnp.float32) for shape in shapes
  )
  # Gains and scales are float32; activations have one type.
  same = [
    r.astype(dtype) if r.shape == first.shape else r for r in rest
  ]  # fmt: skip
  return (first.astype(dtype), *same)


@pytest.mark.parametrize('name', CASES)
def test_derivatives_equal_those_of_autodiff(name):
  ours, plain, shapes = CASES[name]
  arguments = _arguments(shapes, jnp.float32)

  def both(function):
    out, pull = jax.vjp(function, *arguments)
    return out, pull(jnp.cos(3 * out))

  found, expected = jax.jit(lambda: (both(ours), both(plain)))()
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=FINE * np.abs(b).max())


@pytest.mark.parametrize('name', CASES)
def test_in_bfloat16_only_the_ends_are_rounded(name):
  """As near to float32 as one rounding of the input and result allows."""
  ours, plain, shapes = CASES[name]
  low = _arguments(shapes, jnp.bfloat16)
  high = tuple(x.astype(jnp.float32) for x in low)

  def both(function, arguments):
    out, pull = jax.vjp(function, *arguments)
    return out, pull(jnp.ones_like(out))

  found, expected = jax.jit(lambda: (both(ours, low), both(plain, high)))()
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    error = np.abs(a.astype(jnp.float32) - b)
    assert error.max() <= 2**-8 * np.abs(b).max() + 1e-6


def test_the_passes_of_gelu_share_nothing_worth_keeping():
  """XLA would merge a second tanh with the first, and keep it in float32."""
  x = jnp.ones((2, 3, 4), jnp.bfloat16)
  both = jax.make_jaxpr(lambda x: jax.vjp(activation.gelu, x)[1](x))(x)
  assert str(both).count('tanh') == 1


def test_the_gradient_of_a_zero_vector_is_finite():
  x, scale = jnp.zeros((1, 2, 1, 4)), jnp.ones((1, 1, 1, 1))
  gradient = jax.grad(lambda x: jnp.sum(norm.unit(x, scale)))(x)
  # The length is held at 1e-12, as by the official normalize().
  np.testing.assert_allclose(gradient, 1e12, rtol=1e-6)


# ---------------------------------------------- what autodiff keeps of a block

B = 8
SIZES = tuple(side * side for side in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
L = sum(SIZES)


@jax.custom_vjp
def _fused(q, k, v):
  """Shaped like a fused kernel; only shapes are computed with it."""
  return _fused_fwd(q, k, v)[0]


def _fused_fwd(q, k, v):
  out = remat.name(q * k * v, remat.ATTENTION)
  rows = jnp.max(q.astype(jnp.float32), axis=-1)
  rows = remat.name(rows, remat.ATTENTION)
  return out, (q, k, v, out, rows)


def _fused_bwd(saved, grad):
  q, k, v, out, rows = saved
  grad = grad * out * rows[..., None].astype(q.dtype)
  return grad * q, grad * k, grad * v


_fused.defvjp(_fused_fwd, _fused_bwd)


def _kept(model: ModelSpec) -> list[jax.ShapeDtypeStruct]:
  """What the backward pass of all blocks reads that has a row a position."""
  network = Transformer(
    model,
    Layout(
      positions=L, start=1, block_sizes=SIZES,
      input_kind='features', input_dim=8, targets_per_position=1, vocab=64,
      num_positions=L, num_steps=len(SIZES),
    ),
  )  # fmt: skip

  def pull(labels, inputs):
    params = network.init({'params': jax.random.key(0)}, labels, inputs)
    return jax.vjp(
      lambda params: network.apply(
        params, labels, inputs, train=True,
        rngs={'drop_path': jax.random.key(1)},
      ),
      meta.unbox(params),
    )[1]  # fmt: skip

  saved = jax.eval_shape(
    pull,
    jax.ShapeDtypeStruct((B,), jnp.int32),
    jax.ShapeDtypeStruct((B, L - 1, 8), jnp.float32),
  )
  return [
    leaf
    for leaf in jax.tree.leaves(saved)
    if leaf.shape[:2] == (model.depth, B) and L in leaf.shape
  ]


@pytest.mark.parametrize(
  'variant',
  [
    {},
    {'norm': 'rmsnorm', 'mlp': 'swiglu', 'position': 'rotary1d'},
    {'norm': 'layernorm', 'l2_norm': False},
    {'products': 'fp8'},
  ],
  ids=['var', 'llama', 'gpt', 'fp8'],
)
@pytest.mark.parametrize('policy', memory.REMAT)
def test_a_block_keeps_what_the_memory_model_says(variant, policy, monkeypatch):
  monkeypatch.setitem(
    attention.BACKENDS, 'xla', lambda q, k, v, *_: _fused(q, k, v)
  )
  model = ModelSpec(
    depth=3, width=192, heads=3, num_classes=4, drop_path=0.1, remat=policy,
    **variant,
  )  # fmt: skip
  kept = _kept(model)
  whole_rows = B * L * model.width
  for leaf in kept:
    if leaf.dtype == jnp.float32:
      assert leaf.size // model.depth < whole_rows / 32, leaf
  total = sum(leaf.size * leaf.dtype.itemsize for leaf in kept)
  assert total == model.depth * B * L * memory.kept_bytes(model)


@pytest.mark.parametrize('policy', ['none', 'light', 'slim'])
def test_a_kernel_that_normalises_keeps_lengths_alone(policy):
  """The flash kernels themselves, which are never run here."""
  model = ModelSpec(
    depth=3, width=192, heads=3, num_classes=4, remat=policy,
    attention='flash',
  )  # fmt: skip
  total = sum(leaf.size * leaf.dtype.itemsize for leaf in _kept(model))
  kept = memory.kept_bytes(model, attention='flash')
  assert total == model.depth * B * L * kept


def test_the_policies_of_the_blocks_are_those_that_are_counted():
  assert tuple(remat.POLICIES) == memory.REMAT
  with pytest.raises(errors.ConfigError, match='none, light, dots'):
    memory.kept_bytes(ModelSpec(remat='auto'))

"""The transformer with its blocks' products in float8."""

import dataclasses
import functools

from flax.core import meta
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from varjax import sharding
from varjax.models import fp8
from varjax.models.transformer import Transformer
from varjax.spec import MeshSpec, ModelSpec
from varjax.types import Layout

SIZES = (1, 4, 9)
LAYOUT = Layout(
  positions=14, start=1, block_sizes=SIZES, input_kind='features',
  input_dim=4, targets_per_position=1, vocab=11, num_positions=14,
  num_steps=3,
)  # fmt: skip
PLAIN = ModelSpec(
  depth=2, width=16, heads=2, num_classes=3, attention='xla', init_gamma=0.1
)
FP8 = dataclasses.replace(PLAIN, products='fp8')
FAMILY = {'norm': 'rmsnorm', 'mlp': 'swiglu', 'position': 'rotary1d'}


def _arguments():
  rng = np.random.default_rng(0)
  labels = jnp.asarray([0, 2, 1], jnp.int32)
  return labels, jnp.asarray(rng.normal(size=(3, 13, 4)), jnp.float32)


@functools.cache
def _params(**changes):
  model = Transformer(dataclasses.replace(PLAIN, **changes), LAYOUT)
  return meta.unbox(model.init(jax.random.key(0), *_arguments()))


def _gradients(spec, params):
  """Loss and gradients of a training pass."""
  model = Transformer(spec, LAYOUT)

  def loss(params):
    logits = model.apply(params, *_arguments(), train=True)
    return -jnp.mean(jax.nn.log_softmax(logits)[..., 3])

  return jax.jit(jax.value_and_grad(loss))(params)


def _program(spec, train):
  model = Transformer(spec, LAYOUT)
  run = functools.partial(model.apply, train=train)
  return str(jax.make_jaxpr(run)(_params(), *_arguments()))


def test_weights_are_those_of_compute():
  """So that a checkpoint of one continues as the other."""
  one, other = (
    jax.eval_shape(
      lambda spec=spec: Transformer(spec, LAYOUT).init(
        jax.random.key(0), *_arguments()
      )
    )
    for spec in (PLAIN, FP8)
  )
  assert jax.tree.structure(one) == jax.tree.structure(other)
  assert jax.tree.leaves(one) == jax.tree.leaves(other)


def test_only_training_has_products_in_float8():
  assert _program(FP8, False) == _program(PLAIN, False)
  assert 'f8_e4m3fn' not in _program(PLAIN, True)
  # Four products in the scanned block, two factors each.
  assert _program(FP8, True).count('f8_e4m3fn[') >= 8


@pytest.mark.parametrize(
  'family',
  [{}, pytest.param(FAMILY, marks=pytest.mark.slow)],
  ids=['var', 'llama'],
)
def test_gradients_are_near_those_of_compute(family):
  params = _params(**family)
  plain, fp8_ = (
    _gradients(dataclasses.replace(spec, **family), params)
    for spec in (PLAIN, FP8)
  )
  assert plain[0] != fp8_[0]
  # Loss: to first order the errors of rounding have no sign and cancel.
  np.testing.assert_allclose(plain[0], fp8_[0], rtol=0.01)
  for (path, one), other in zip(
    jax.tree.leaves_with_path(plain[1]), jax.tree.leaves(fp8_[1]), strict=True
  ):
    # A gradient of e5m2 times values of e4m3: 1/8 and 1/16 of each term, of
    # random sign, one after the other through two blocks.
    cosine = np.vdot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other))
    assert cosine > 0.95, (jax.tree_util.keystr(path), cosine)
    assert one.dtype == other.dtype == jnp.float32


def test_recomputed_and_unrolled_blocks_have_the_same_gradients():
  """Bit for bit in what is rounded; only sums may have another order."""
  params = _params()
  expected = _gradients(FP8, params)
  for changes in ({'remat': 'light'}, {'remat': 'dots', 'scan': False}):
    found = _gradients(dataclasses.replace(FP8, **changes), params)
    for one, other in zip(
      jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_allclose(
        one, other, atol=1e-6 + 2**-7 * np.abs(other).max()
      )


def test_a_policy_keeps_the_scales():
  """So that no second search for the largest number is in the program."""

  def searches(spec, remat):
    model = Transformer(dataclasses.replace(spec, remat=remat), LAYOUT)

    def loss(params):
      return jnp.sum(model.apply(params, *_arguments(), train=True))

    program = str(jax.make_jaxpr(jax.grad(loss))(_params()))
    return program.count('reduce_max')

  # Attention searches for the largest logit of a row, too.
  found = {
    remat: searches(FP8, remat) - searches(PLAIN, remat)
    for remat in ('none', 'light', 'dots', 'full')
  }
  # Input and weights of four products, and their gradients in two steps.
  assert found['none'] == found['light'] == found['dots'] == 4 * (2 + 2)
  # Inputs and weights again.
  assert found['full'] == 4 * (4 + 2)


@pytest.mark.parametrize('axes', [(2, 2, 2), (1, 8, 1)])
def test_scales_are_of_the_whole_tensor_on_any_mesh(axes):
  mesh = sharding.make_mesh(MeshSpec(*axes))
  rng = np.random.default_rng(0)
  x, kernel, grad = (
    rng.normal(size=shape).astype(np.float32)
    for shape in ((8, 6, 16), (16, 3, 8), (8, 6, 3, 8))
  )
  # The largest number is on one device alone.
  x[5, 3, 2] = 40.0

  def run(x, kernel, grad):
    out, pull = jax.vjp(fp8.product, x, kernel)
    return out, *pull(grad), fp8.quantised(x, fp8.VALUE).values

  rows, columns = ('data', 'fsdp'), 'tensor'
  places = [
    PartitionSpec(rows),
    PartitionSpec('fsdp', None, columns),
    PartitionSpec(rows, None, None, columns),
  ]
  given = [
    jax.device_put(array, NamedSharding(mesh, place))
    for array, place in zip((x, kernel, grad), places, strict=True)
  ]
  expected = jax.jit(run)(x, kernel, grad)
  for one, other in zip(jax.jit(run)(*given), expected, strict=True):
    one, other = (np.asarray(part, np.float32) for part in (one, other))
    np.testing.assert_allclose(one, other, atol=1e-6 * np.abs(other).max())

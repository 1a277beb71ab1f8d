"""The fused kernels, interpreted on a CPU, against the plain operations."""

import dataclasses

from flax.core import meta
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType
import numpy as np
import pytest

from varjax import sharding
from varjax.models import norm
from varjax.models.fused import modulate
from varjax.models.transformer import Transformer
from varjax.spec import MeshSpec, ModelSpec
from varjax.types import Layout


def _arguments(images, length, width, dtype, summed):
  rng = np.random.default_rng(0)
  whole, vector = (images, length, width), (images, width)
  shapes = (whole, vector, vector) + ((whole, vector) if summed else ())
  return [jnp.asarray(rng.normal(0.3, 1, s), dtype) for s in shapes]


def _plain(x, scale, shift, branch=None, gate=None):
  """What the kernels are to compute, rounded where they round."""
  if branch is not None:
    wide = x.astype(jnp.float32) + gate.astype(jnp.float32)[
      :, None
    ] * branch.astype(jnp.float32)
    x = wide.astype(x.dtype)
  return x, norm.modulate(x, scale, shift)


def _fused(x, scale, shift, branch=None, gate=None):
  if branch is None:
    return modulate.normed(x, scale, shift)
  return modulate.summed(x, branch, gate, scale, shift)


def _with_gradients(function, arguments):
  def both(*arguments):
    out, pull = jax.vjp(function, *arguments)
    # Different gradients of the two results.
    return out, pull(tuple(jnp.cos(2 * x + i) for i, x in enumerate(out)))

  return jax.tree.leaves(jax.jit(both)(*arguments))


# Lengths that no tile divides, and below one; a width that is no power of
# two, and one of which a program holds a single row.
@pytest.mark.parametrize(
  ('images', 'length', 'width', 'summed'),
  [(2, 70, 48, True), (1, 3, 64, False), (2, 9, 1920, True)],
)
def test_values_and_gradients_are_those_of_plain_operations(
  images, length, width, summed
):
  arguments = _arguments(images, length, width, jnp.float32, summed)
  found = _with_gradients(_fused, arguments)
  expected = _with_gradients(_plain, arguments)
  for a, b in zip(found, expected, strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize('summed', [False, True])
def test_in_bfloat16_errors_are_those_of_plain_operations(summed):
  low = _arguments(2, 70, 64, jnp.bfloat16, summed)
  found, usual = (_with_gradients(f, low) for f in (_fused, _plain))
  exact = _with_gradients(_plain, [x.astype(jnp.float32) for x in low])
  for a, b, right in zip(found, usual, exact, strict=True):
    assert a.dtype == b.dtype == jnp.bfloat16
    ours, theirs = (
      np.sqrt(np.mean(np.square(x.astype(jnp.float32) - right))) for x in (a, b)
    )
    assert ours <= 1.1 * theirs + 1e-6


def test_a_mesh_changes_nothing():
  arguments = _arguments(4, 9, 32, jnp.float32, True)
  expected = _with_gradients(_plain, arguments)
  mesh = sharding.make_mesh(MeshSpec(2, 2, 1), jax.devices()[:4])
  with sharding.use_mesh(mesh):
    found = _with_gradients(_fused, arguments)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


# ------------------------------------------------------------------ in a model

SPEC = ModelSpec(
  depth=2, width=32, heads=2, num_classes=3, compute_dtype='float32',
  drop_path=0.4, attention='xla',
)  # fmt: skip
LAYOUT = Layout(
  positions=14, start=1, block_sizes=(1, 4, 9), input_kind='features',
  input_dim=4, targets_per_position=1, vocab=11, num_positions=14, num_steps=3,
)  # fmt: skip


def _loss_and_gradients(**changes):
  rng = np.random.default_rng(0)
  inputs = jnp.asarray(rng.normal(0, 1, (4, 13, 4)), jnp.float32)
  labels = jnp.arange(4) % 3
  model = Transformer(dataclasses.replace(SPEC, **changes), LAYOUT)
  params = meta.unbox(model.init(jax.random.key(0), labels, inputs))
  # Gates start near zero, which would hide the branches.
  params = jax.tree.map(
    lambda x: x + 0.1 * np.random.default_rng(1).normal(0, 1, x.shape), params
  )

  def loss(params):
    logits = model.apply(
      params, labels, inputs, train=True, rngs={'drop_path': jax.random.key(2)}
    )
    return jnp.mean(jax.nn.logsumexp(logits, -1))

  return jax.jit(jax.value_and_grad(loss))(params)


def test_loss_and_gradients_of_a_model_are_the_same():
  """With stochastic depth; scanned, and in loops that repeat their work."""
  expected = _loss_and_gradients(fused='off')
  for changes in ({}, {'scan': False, 'remat': 'light'}):
    found = _loss_and_gradients(fused='on', **changes)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected
    )


def _gpu(shape=(1, 1, 1)):
  device = jax.sharding.AbstractDevice(
    device_kind='NVIDIA H100 80GB HBM3', num_cores=132, platform='gpu'
  )
  return AbstractMesh(
    shape, sharding.AXES, axis_types=(AxisType.Auto,) * 3,
    abstract_device=device,
  )  # fmt: skip


def test_they_are_chosen_where_they_can_run():
  low = jnp.zeros((4, 5, 32), jnp.bfloat16)

  def fits(x=low, **changes):
    spec = dataclasses.replace(SPEC, **{'scan': False, **changes})
    return modulate.fits(spec, x)

  assert not fits()
  assert fits(fused='on', scan=True)
  with jax.sharding.use_abstract_mesh(_gpu()):
    assert fits()
    assert not fits(low.astype(jnp.float32))
    assert not fits(fused='off')
    assert not fits(scan=True)
    assert not fits(norm='layernorm')
    assert not fits(jnp.zeros((4, 5, 8192), jnp.bfloat16))
  with jax.sharding.use_abstract_mesh(_gpu((2, 4, 1))):
    assert not fits()  # Eight devices, four images.
  with jax.sharding.use_abstract_mesh(_gpu((1, 1, 2))):
    assert not fits()


@pytest.mark.parametrize('width', [1024, 1920])
def test_the_official_sizes_lower_for_a_gpu(width):
  shapes = [
    jax.ShapeDtypeStruct(s, jnp.bfloat16)
    for s in ((2, 680, width), (2, width), (2, width), (2, 680, width),
              (2, width))
  ]  # fmt: skip

  def program(*arguments):
    out, pull = jax.vjp(_fused, *arguments)
    alone = jax.vjp(_fused, *arguments[:3])
    return out, pull(out), alone[0], alone[1](out)

  with jax.sharding.use_abstract_mesh(_gpu()):
    traced = jax.jit(program).trace(*shapes)
    text = traced.lower(lowering_platforms=('cuda',)).as_text()
  assert text.count('@__gpu$xla.gpu.triton') == 4

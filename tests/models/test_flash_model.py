"""The transformer on the flash kernels: the same model, other programs."""

import dataclasses
import functools

from flax.core import meta
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType
import numpy as np
import pytest

from varjax import sharding
from varjax.models import attention, cache
from varjax.models.flash import block_causal
from varjax.models.transformer import Transformer
from varjax.spec import ModelSpec
from varjax.types import CodeSpec, Layout

SPEC = ModelSpec(
  depth=2, width=32, heads=2, num_classes=3, compute_dtype='float32'
)
CODES = CodeSpec(((1, 1), (2, 2), (3, 3)), 11, 4)
LAYOUT = Layout(
  positions=CODES.positions,
  start=1,
  block_sizes=CODES.block_sizes,
  input_kind='features',
  input_dim=4,
  targets_per_position=1,
  vocab=11,
  num_positions=CODES.positions,
  num_steps=3,
)


@pytest.fixture
def gpu_mesh():
  """A device that programs may be traced for, though none is here."""
  device = jax.sharding.AbstractDevice(
    device_kind='any', num_cores=None, platform='gpu'
  )
  mesh = AbstractMesh(
    (1, 1, 1),
    sharding.AXES,
    axis_types=(AxisType.Auto,) * 3,
    abstract_device=device,
  )
  with jax.sharding.use_abstract_mesh(mesh):
    yield mesh


def test_loss_and_gradients_are_those_of_the_reference(monkeypatch):
  kernels = []
  attend = block_causal.attend_packed

  def counted(*arguments, **options):
    kernels.append(options['unit_scale'] is not None)
    return attend(*arguments, **options)

  monkeypatch.setattr(block_causal, 'attend_packed', counted)
  rng = np.random.default_rng(0)
  inputs = jnp.asarray(rng.normal(0, 1, (2, 13, 4)), jnp.float32)
  labels = jnp.arange(2)
  found = {}
  for backend in ('xla', 'flash'):
    model = Transformer(dataclasses.replace(SPEC, attention=backend), LAYOUT)
    params = meta.unbox(model.init(jax.random.key(0), labels, inputs))
    # Gates and the head start near zero, which would hide the attention.
    params = jax.tree.map(
      lambda x: x + 0.1 * np.random.default_rng(1).normal(0, 1, x.shape),
      params,
    )

    def loss(params, model=model):
      return jnp.mean(jax.nn.logsumexp(model.apply(params, labels, inputs), -1))

    found[backend] = jax.jit(jax.value_and_grad(loss))(params)
  assert kernels
  assert all(kernels)  # Always of raw queries and keys.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    found['flash'],
    found['xla'],
  )


def _kernels(function, *arguments):
  return str(jax.make_jaxpr(function)(*arguments))


@pytest.mark.usefixtures('gpu_mesh')
def test_on_a_gpu_flash_is_chosen_for_static_blocks(monkeypatch):
  # cuDNN's function asks for its library as it is traced.
  monkeypatch.setitem(attention.BACKENDS, 'cudnn', attention.xla)
  q = jnp.zeros((1, 5, 2, 64), jnp.bfloat16)
  odd = jnp.zeros((1, 5, 2, 48), jnp.bfloat16)

  def attend(q, **rule):
    return _kernels(lambda q: attention.attend(q, q, q, scale=1.0, **rule), q)

  assert 'flash_forward' in attend(q, blocks=(1, 4))
  assert 'flash' not in attend(odd, blocks=(1, 4))
  assert 'flash' not in attend(q, steps=jnp.zeros((1, 5), jnp.int32))
  assert 'flash' not in attend(q)
  assert 'flash' not in attend(q, blocks=(1, 4), backend='cudnn')
  assert 'flash' not in attend(q.astype(jnp.float32), blocks=(1, 4))


@pytest.mark.usefixtures('gpu_mesh')
def test_on_a_gpu_a_cache_is_read_by_the_kernel():
  q, past = (jnp.zeros((1, n, 2, 64), jnp.bfloat16) for n in (1, 9))

  def attend(q, past, **more):
    prefix = cache.Cache(past, past).prefix(8)
    return cache.attend_cached(q, q, q, prefix, 1.0, **more)

  assert 'flash_cached' in _kernels(attend, q, past)
  traced = functools.partial(attend, visible=jnp.int32(3))
  assert 'flash_cached' in _kernels(traced, q, past)
  exact = (x.astype(jnp.float32) for x in (q, past))
  assert 'flash_cached' not in _kernels(attend, *exact)
  chosen = functools.partial(attend, backend='xla')
  assert 'flash_cached' not in _kernels(chosen, q, past)

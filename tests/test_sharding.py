import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from varjax import errors, optim, sharding
from varjax import spec as specs


def _named(init, *names):
  return nn.with_logical_partitioning(init, names)


class Net(nn.Module):
  classes: int = 5

  @nn.compact
  def __call__(self, x, label):
    normal = nn.initializers.normal(0.3)
    h = nn.Dense(16, kernel_init=_named(normal, None, 'embed'))(x)
    h = h + nn.Embed(
      self.classes, 16, embedding_init=_named(normal, 'classes', 'embed')
    )(label)
    h = nn.with_logical_constraint(h, ('batch', 'embed'))
    y = nn.gelu(
      nn.Dense(
        32,
        kernel_init=_named(normal, 'embed', 'mlp'),
        bias_init=_named(nn.initializers.zeros, 'mlp'),
      )(h)
    )
    h = h + nn.Dense(16, kernel_init=_named(normal, 'mlp', 'embed'))(y)
    return nn.Dense(
      8, kernel_init=_named(normal, 'embed', 'vocab'), name='head'
    )(h)


OPTIM = specs.OptimSpec(lr=0.1)
TX = optim.make_optimizer(
  OPTIM,
  optim.numbers_of(OPTIM, total_steps=9, batch_size=16, warmup_steps=0),
)
LAYOUTS = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (4, 1, 2)]


def _init(rng):
  params = Net().init(rng, jnp.ones((1, 4)), jnp.zeros((1,), jnp.int32))
  return {'params': params['params'], 'opt': TX.init(params['params'])}


def _batch():
  draw = np.random.default_rng(0)
  return {
    'x': draw.normal(size=(16, 4)).astype(np.float32),
    'label': draw.integers(0, 5, size=16).astype(np.int32),
  }


def _step(state, batch):
  def loss_fn(params):
    logits = Net().apply({'params': params}, batch['x'], batch['label'])
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) ** 2)

  loss, grads = jax.value_and_grad(loss_fn)(state['params'])
  updates, opt = TX.update(grads, state['opt'], state['params'])
  params = jax.tree.map(lambda p, u: p + u, state['params'], updates)
  return {'params': params, 'opt': opt}, loss, grads


@pytest.fixture(scope='module')
def single():
  mesh = sharding.make_mesh(specs.MeshSpec(1, 1, 1), jax.devices()[:1])
  state = sharding.init_sharded(_init, mesh, jax.random.key(0))
  state = jax.tree.map(np.asarray, state)
  return state, jax.jit(_step)(state, _batch())


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_equals_one_device(layout, single):
  mesh = sharding.make_mesh(specs.MeshSpec(*layout))
  key = jax.random.key(0)
  state = sharding.init_sharded(_init, mesh, key)
  jax.tree.map(np.testing.assert_array_equal, state, single[0])
  shardings = jax.tree.map(lambda x: x.sharding, state)
  batch = sharding.shard_batch(_batch(), mesh)
  step = jax.jit(_step, out_shardings=(shardings, None, None))
  with sharding.use_mesh(mesh):
    got = step(state, batch)
  want = single[1]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    got[1:],
    want[1:],
  )
  # Optimiser state lives where its parameters live.
  kernels = [
    tree['Dense_1']['kernel']
    for tree in (got[0]['params'], got[0]['opt'][1].mu, got[0]['opt'][1].nu)
  ]
  shard = (16 // layout[1], 32 // layout[2])
  for kernel in kernels:
    assert kernel.sharding.spec == P('fsdp', 'tensor')
    assert {s.data.shape for s in kernel.addressable_shards} == {shard}


def test_constraints_are_not_a_silent_no_op():
  mesh = sharding.make_mesh(specs.MeshSpec(2, 2, 2))
  assert not flax.core.meta.global_mesh_defined()
  with sharding.use_mesh(mesh):
    assert flax.core.meta.global_mesh_defined()
    x = jax.jit(lambda x: nn.with_logical_constraint(x, ('batch', 'embed')))(
      jnp.ones((8, 4))
    )
  assert x.sharding.spec[0] == ('data', 'fsdp')
  assert {s.data.shape for s in x.addressable_shards} == {(2, 4)}


def test_abstract_tree_matches_the_real_one():
  mesh = sharding.make_mesh(specs.MeshSpec(2, 4, 1))
  key = jax.random.key(0)
  abstract = sharding.abstract_sharded(_init, mesh, key)
  real = sharding.init_sharded(_init, mesh, key)
  assert jax.tree.structure(abstract) == jax.tree.structure(real)
  for a, r in zip(
    jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True
  ):
    assert (a.shape, a.dtype) == (r.shape, r.dtype)
    assert a.sharding.is_equivalent_to(r.sharding, r.ndim)


def test_scanned_layers_axis_is_not_sharded():
  mesh = sharding.make_mesh(specs.MeshSpec(1, 2, 4))
  box = nn.LogicallyPartitioned(
    jnp.zeros((3, 8, 16)), ('layers', 'embed', 'mlp')
  )
  got = sharding.shardings_of({'blocks': {'kernel': box}}, mesh)
  assert got['blocks']['kernel'].spec == P(None, 'fsdp', 'tensor')


@pytest.mark.parametrize(
  ('names', 'shape', 'message'),
  [
    (('embed', 'mlp'), (6, 8), r"mesh\.fsdp=4: .*'embed'.*a/kernel.*size 6"),
    (('embed', 'embed'), (8, 8), "a/kernel: .*'embed' and 'embed'"),
    (('batch', 'embed'), (8, 8), "'batch' and 'embed' both map .*'fsdp'"),
    (('embd', 'mlp'), (8, 8), "unknown logical axis 'embd'; allowed: batch"),
    (('embed',), (8, 8), '1 axis names'),
  ],
)
def test_impossible_parameters_are_named(names, shape, message):
  mesh = sharding.make_mesh(specs.MeshSpec(1, 4, 2))
  box = nn.LogicallyPartitioned(jnp.zeros(shape), names)
  with pytest.raises(errors.ConfigError, match=message):
    sharding.shardings_of({'a': {'kernel': box}}, mesh)


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ((3, 1, 1), r'does not fill the 8 devices; set mesh\.data=-1'),
    ((-1, 3, 1), 'does not fill the 8 devices'),
    ((-1, -1, 1), 'only one size'),
    ((0, 1, 1), 'at least 1'),
  ],
)
def test_impossible_meshes_name_the_fix(sizes, message):
  with pytest.raises(errors.ConfigError, match=message):
    sharding.make_mesh(specs.MeshSpec(*sizes))


def test_minus_one_fills():
  mesh = sharding.make_mesh(specs.MeshSpec(data=-1, fsdp=2, tensor=2))
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  one = sharding.make_mesh(specs.MeshSpec(), jax.devices()[:1])
  assert one.size == 1


def test_shard_batch_splits_rows_and_refuses_uneven_ones():
  mesh = sharding.make_mesh(specs.MeshSpec(2, 2, 2))
  batch = sharding.shard_batch(_batch(), mesh)
  assert {s.data.shape for s in batch['x'].addressable_shards} == {(4, 4)}
  np.testing.assert_array_equal(batch['label'], _batch()['label'])
  with pytest.raises(errors.ConfigError, match='multiple of 4'):
    sharding.shard_batch({'x': np.zeros((6, 2))}, mesh)

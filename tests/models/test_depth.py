"""The depth transformer on devices and under the ways to run its blocks."""

import dataclasses

import jax
import numpy as np
import pytest
import worlds

from varjax import sharding
from varjax.spec import (
  Duration,
  MeshSpec,
  ModelSpec,
  OrderSpec,
  RunSpec,
  TokenizerSpec,
)
from varjax.tasks.generate import GenerateTask

RUN = RunSpec(
  order=OrderSpec('residual'),
  tokenizer=TokenizerSpec(
    'rq', code_dim=4, vocab=16, scales=(2,), codes_per_position=3
  ),
  model=ModelSpec(
    depth=2, width=16, heads=2, num_classes=3, compute_dtype='float32',
    depth_layers=2,
  ),
  batch_size=8,
  total=Duration(steps=1),
)  # fmt: skip


def loss_and_gradients(model, mesh):
  task = GenerateTask(dataclasses.replace(RUN, model=model))
  devices = jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor]
  made = sharding.make_mesh(mesh, devices)
  params = sharding.init_sharded(
    lambda rng: task.init(rng)[0], made, jax.random.key(0)
  )
  codes = np.random.default_rng(0).integers(0, 16, (8, 4, 3))
  batch = {'codes': codes.astype(np.int32), 'label': np.arange(8) % 3}
  frozen = {'quantizer': worlds.quantizer(RUN.tokenizer)}

  def loss(params, batch):
    return task.loss_fn(params, {}, frozen, batch, jax.random.key(1))[0]

  with sharding.use_mesh(made):
    found = jax.jit(jax.value_and_grad(loss))(
      params, sharding.shard_batch(batch, made)
    )
  return jax.tree.map(np.asarray, found)


@pytest.fixture(scope='module')
def plain():
  return loss_and_gradients(RUN.model, MeshSpec(1, 1, 1))


@pytest.mark.parametrize(
  ('changes', 'mesh'),
  [
    ({'remat': 'full'}, MeshSpec(2, 2, 2)),
    ({'scan': False, 'loss_chunks': 3}, MeshSpec(1, 1, 1)),
  ],
)
def test_devices_chunks_and_recomputation_change_nothing(changes, mesh, plain):
  model = dataclasses.replace(RUN.model, **changes)
  found = loss_and_gradients(model, mesh)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, plain
  )


def test_every_weight_of_the_depth_transformer_is_trained(plain):
  _, gradients = plain
  for leaf in jax.tree.leaves(gradients['head']['depth']):
    assert np.abs(leaf).max() > 0

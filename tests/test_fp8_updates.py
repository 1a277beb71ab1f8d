"""Updates with products in float8, from weights trained without them."""

import dataclasses

import jax
import numpy as np
import pytest

from varjax import schedule, sharding, step
from varjax.spec import (
  DataSpec,
  Duration,
  MeshSpec,
  ModelSpec,
  OptimSpec,
  RunSpec,
  TokenizerSpec,
)
from varjax.tokenizers import make_tokenizer

RUN = RunSpec(
  task='generate',
  total=Duration(steps=20),
  batch_size=8,
  data=DataSpec(resolution=16),
  tokenizer=TokenizerSpec(
    ch=8, ch_mult=(1, 1, 1), num_res_blocks=1, norm_groups=4, code_dim=8,
    vocab=32, scales=(1, 2, 4),
  ),
  model=ModelSpec(
    depth=2, width=32, heads=2, num_classes=4, label_drop=0.0,
    attention='xla',
  ),
  optim=OptimSpec(lr=3e-3),
)  # fmt: skip


def _trained(run, mesh, updates, state=None):
  """Losses, and the state on the host."""
  steps = schedule.resolve_run(run, 8)
  program = step.Program(run, steps, mesh)
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)
  frozen = {'quantizer': tokenizer.quantizer(
    tokenizer.init(jax.random.key(0), run.data.resolution)
  )}  # fmt: skip
  frozen = jax.device_put(jax.device_get(frozen), sharding.replicated(mesh))
  rng = np.random.default_rng(0)
  batch = {
    'codes': rng.integers(0, 32, (8, 21, 1), np.int32),
    'label': np.arange(8, dtype=np.int32) % 4,
  }
  if state is None:
    state = program.init_sharded()
  else:
    places = jax.tree.map(lambda leaf: leaf.sharding, program.abstract)
    state = jax.device_put(state, places)
  update, losses = program.jitted(program.task), []
  with sharding.use_mesh(mesh):
    batch = sharding.shard_batch(batch, mesh)
    for _ in range(updates):
      state, values = update(state, frozen, batch, program.hyper)
      losses.append(float(values['loss']))
  return np.asarray(losses), jax.device_get(state)


@pytest.mark.slow
def test_a_state_goes_on_in_float8_on_any_mesh():
  one = sharding.make_mesh(MeshSpec(), jax.devices()[:1])
  fp8 = dataclasses.replace(
    RUN, model=dataclasses.replace(RUN.model, products='fp8', remat='light')
  )
  before, state = _trained(RUN, one, 10)
  plain, _ = _trained(RUN, one, 10, state)
  alone, _ = _trained(fp8, one, 10, state)
  assert alone[-1] < before[-1] < before[0]
  assert np.any(alone != plain)
  # First of the same weights, then of weights that drift apart: within a
  # fiftieth of what was learned meanwhile.
  np.testing.assert_allclose(alone, plain, atol=0.02 * (plain[0] - plain[-1]))
  for axes in ((8, 1, 1), (1, 8, 1), (2, 2, 2)):
    shared, _ = _trained(fp8, sharding.make_mesh(MeshSpec(*axes)), 10, state)
    # Sums in another order move some numbers to their neighbours in float8.
    np.testing.assert_allclose(
      shared, alone, atol=0.02 * (alone[0] - alone[-1])
    )

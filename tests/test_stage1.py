"""A whole adversarial stage-1 run: kill and resume, average, export, record."""

import collections
import json

import jax
import numpy as np
import pytest
import tiny

from varjax import (
  checkpoint,
  errors,
  metrics,
  records,
  runs,
  schedule,
  sharding,
  step,
  train,
)
from varjax import spec as specs
from varjax.tasks.reconstruct import DISCRIMINATOR
from varjax.tokenizers import artifact

pytestmark = pytest.mark.usefixtures('one_device')

ADVERSARIAL = {
  'ema': 0.9,
  'total.steps': 5,
  'evaluate.steps': 5,
  'checkpoint.steps': 3,
  'reconstruct.adversarial.discriminator': 'patch',
  'reconstruct.adversarial.ch': 4,
  'reconstruct.adversarial.layers': 1,
  'reconstruct.adversarial.start.steps': 2,
  'reconstruct.adversarial.warmup.steps': 2,
  'reconstruct.adversarial.blur.steps': 2,
  'reconstruct.adversarial.consistency': 0.0,
}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  return tiny.write_images(tmp_path_factory.mktemp('stage1') / 'images')


@pytest.fixture(scope='module')
def world(images):
  """The run, its record and its workdir."""
  run = tiny.tokenizer_run(images, **ADVERSARIAL)
  path = images.parent / 'whole'
  return run, tiny.run_to_end(run, path), path


def test_resumed_equals_uninterrupted_bit_for_bit(world, tmp_path, monkeypatch):
  run, record, path = world

  class PowerCut(BaseException):
    pass

  def cut(_, step, __):
    if step == 4:
      raise PowerCut

  with monkeypatch.context() as patch:
    patch.setattr(train.Progress, 'update', cut)
    with pytest.raises(PowerCut):
      tiny.run_to_end(run, tmp_path)
  assert checkpoint.latest_step(tmp_path) == 3  # the discriminator trains
  again = tiny.run_to_end(run, tmp_path)
  assert again.restarts == 1
  for field in ('tokenizer_id', 'val_psnr_db', 'val_ssim', 'code_perplexity'):
    assert getattr(again, field) == getattr(record, field), field
  entries = ('params', 'ema', 'opt_state', 'task_state')
  one, other = (checkpoint.load_params(p, entries) for p in (path, tmp_path))
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_tokenizer_is_the_average_without_its_opponent(world):
  _, record, path = world
  saved = checkpoint.load_params(path, ('params', 'ema'))
  assert DISCRIMINATOR in saved['params']
  assert DISCRIMINATOR not in saved['ema']
  exported = artifact.load(path)
  assert exported.id == record.tokenizer_id
  jax.tree.map(np.testing.assert_array_equal, exported.params, saved['ema'])


def test_both_networks_trained_and_were_logged(world):
  run, record, path = world
  rows = collections.defaultdict(dict)
  for row in metrics.read(path):
    rows[row['step']] |= row
  assert 'train/loss_discriminator' not in rows[2]
  assert 'train/lr_discriminator' not in rows[2]
  assert rows[3]['train/loss_discriminator'] > 0
  # Three updates of a cosine down to 0.3, without a warm-up.
  rate = run.reconstruct.adversarial.optim.lr
  assert rows[3]['train/lr_discriminator'] == pytest.approx(rate)
  assert rows[5]['train/lr_discriminator'] == pytest.approx(0.3 * rate)
  assert record.discriminator == 'patch'
  assert record.perceptual is None
  assert record.val_perceptual is None
  assert -1 <= record.val_ssim <= 1
  assert len(json.loads(record.code_perplexity_scales)) == 3
  curve = records.read(path / 'curves.jsonl')
  assert [r.steps for r in curve] == [5]


def test_what_a_run_looks_through_is_part_of_its_id(images):
  plain = tiny.tokenizer_run(images)
  seen = tiny.tokenizer_run(
    images, **{'reconstruct.perceptual.backbone': 'efflite0'}
  )
  resolved = runs.resolve(seen)
  assert resolved.inputs['perceptual'].startswith('efflite0-')
  assert runs.resolve(plain).run_id != resolved.run_id


@pytest.mark.parametrize(
  ('overrides', 'said'),
  [
    ({'ema': 1.0}, 'ema=1.0'),
    ({'reconstruct.perceptual.backbone': 'vgg'}, 'perceptual.backbone'),
    ({'reconstruct.adversarial.discriminator': 'dino'}, 'adversarial.weights'),
    ({'reconstruct.adversarial.weights': 'x'}, 'adversarial.weights'),
    ({'reconstruct.adversarial.cutout': 1.0}, 'adversarial.cutout'),
    ({'reconstruct.l1': -1.0}, 'reconstruct.l1'),
  ],
)
def test_losses_that_cannot_be_are_refused(images, overrides, said):
  with pytest.raises(errors.ConfigError, match=said):
    tiny.tokenizer_run(images, **overrides)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_one_update_on_any_mesh_is_the_same(images, dtype):
  """Batch statistics are those of the whole batch, on every device."""
  overrides = {
    **ADVERSARIAL,
    'reconstruct.adversarial.start.steps': 0,
    'reconstruct.adversarial.consistency': 1.0,
    'tokenizer.compute_dtype': dtype,
  }
  run = tiny.tokenizer_run(images, **overrides)
  steps = schedule.resolve_run(run, 30)
  pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
  found = []
  for shape, devices in (((1, 1), 1), ((2, 2), 4)):
    spec = specs.MeshSpec(*shape)
    axes = jax.devices()[:devices]
    mesh = jax.make_mesh(
      (spec.data, spec.fsdp, 1), sharding.AXES, devices=axes,
      axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )  # fmt: skip
    program = step.Program(run, steps, mesh)
    [(_, stage)] = program.task.stages(steps)
    state = program.init_sharded()
    batch = sharding.shard_batch({'image': pixels}, mesh)
    update = program.jitted(stage)
    with sharding.use_mesh(mesh):
      state, values = update(state, {}, batch, program.hyper)
    found.append(jax.device_get((values, state.params)))
  (one, params), (other, sharded) = found
  # Rounding to bfloat16 moves features over the border between two codes,
  # and the gradient with them; what is reconstructed hardly changes.
  exact = dtype == 'float32'
  tolerance = 1e-4 if exact else 3e-2
  for name in one if exact else ('loss_l1', 'loss_l2'):
    np.testing.assert_allclose(
      other[name], one[name], rtol=tolerance, atol=tolerance, err_msg=name
    )
  assert all(np.isfinite(value) for value in other.values())
  # Adam's first update is the sign of a gradient, so at most twice the rate.
  rate = max(run.optim.lr, run.reconstruct.adversarial.optim.lr)
  for a, b in zip(*map(jax.tree.leaves, (params, sharded)), strict=True):
    assert np.isfinite(b).all()
    np.testing.assert_allclose(b, a, atol=2.1 * rate)

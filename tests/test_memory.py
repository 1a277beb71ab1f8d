"""The memory estimate against measurements and its own logic."""

import dataclasses

import pytest

from varjax import errors, memory
from varjax.spec import MeshSpec, ModelSpec, OptimSpec, RunSpec


def _run(depth, batch, remat, **kwargs):
  model = ModelSpec(depth=depth, width=64 * depth, heads=depth, remat=remat)
  return RunSpec(model=model, batch_size=batch, **kwargs)


def test_d16_without_remat_needs_half_of_what_autodiff_alone_did():
  """A plain version of this model needed 72 GB on an H100."""
  estimate = memory.memory_estimate(_run(16, 64, 'none'))
  assert estimate.total < 0.55 * 72e9
  kept = memory.kept_bytes(_run(16, 64, 'none').model)
  # Twenty rows of the width in bfloat16, and a few float32 statistics.
  assert 40 * 1024 < kept < 40.5 * 1024


def test_a_kernel_that_normalises_spares_the_copies():
  """Twice a row of the width, for two float32 numbers a head fewer."""
  model = _run(16, 64, 'none').model
  apart = memory.kept_bytes(model) - memory.kept_bytes(model, 1, 'flash')
  assert apart == 2 * 1024 * 2
  kept = memory.kept_bytes(_run(16, 64, 'light').model)
  spared = memory.kept_bytes(_run(16, 64, 'light').model, 1, 'flash')
  assert spared - kept == 2 * 16 * 4
  run = _run(16, 64, 'none')
  sizes = {
    platform: memory.memory_estimate(run, 1, platform=platform).activations
    for platform in (None, 'tpu', 'gpu')
  }
  assert sizes[None] == sizes['tpu'] > sizes['gpu']
  rotary = dataclasses.replace(model, position='rotary2d')
  assert memory.kept_bytes(rotary, 1, 'flash') == memory.kept_bytes(rotary)


def test_d30_with_32_images_fits_an_h100():
  run = _run(30, 32, 'auto')
  chosen = memory.choose_remat(run, 1, 80e9)
  assert chosen.model.remat == 'light'
  assert memory.memory_estimate(chosen).total < 0.9 * 80e9
  whole = _run(30, 32, 'none')
  assert memory.memory_estimate(whole).total > 80e9


def test_auto_takes_what_repeats_least_of_what_fits():
  run = _run(16, 64, 'auto')
  for remat in memory.REMAT:
    needed = memory.memory_estimate(_run(16, 64, remat)).total
    room = needed / 0.9 + 2**20  # A tenth of a device stays free.
    assert memory.choose_remat(run, 1, room).model.remat == remat
    assert memory.choose_remat(run, 1, 1.01 * room).model.remat == remat
  assert memory.choose_remat(_run(16, 64, 'dots'), 1, None).model.remat == (
    'dots'
  )
  with pytest.raises(errors.ConfigError, match='even full needs'):
    memory.choose_remat(run, 1, 4 * 2**30)
  with pytest.raises(errors.ConfigError, match='choose one of none, light'):
    memory.choose_remat(run, 1, None)


def test_d30_on_four_v5e_is_near_what_the_tpu_compiler_reported():
  run = _run(30, 256, 'full', mesh=MeshSpec(data=1, fsdp=4))
  estimate = memory.memory_estimate(run, devices=4)
  assert estimate.total == pytest.approx(20.2 * 2**30, rel=0.1)


def test_states_of_d30_are_exact():
  estimate = memory.memory_estimate(_run(30, 32, 'dots'))
  assert estimate.params == 4 * 2_010_020_356
  assert estimate.moments == 8 * 2_010_020_356
  # Those of the kernels of the blocks have two bytes.
  assert estimate.params - estimate.gradients == 2 * 30 * 12 * 1920**2


def test_remat_trades_activations():
  sizes = [
    memory.memory_estimate(_run(12, 8, remat)).activations
    for remat in memory.REMAT
  ]
  assert sizes == sorted(sizes, reverse=True)
  assert len(set(sizes)) == len(memory.REMAT)


def test_batch_and_mesh_move_the_right_parts():
  small = memory.memory_estimate(_run(12, 8, 'none'))
  large = memory.memory_estimate(_run(12, 16, 'none'))
  assert large.activations == 2 * small.activations
  assert large.params == small.params
  sharded = memory.memory_estimate(
    _run(12, 16, 'none', mesh=MeshSpec(data=1, fsdp=2)), devices=2
  )
  assert sharded.activations == small.activations
  assert sharded.params == pytest.approx(small.params / 2, rel=1e-6)


def test_tensor_axis_splits_products_but_not_adaln():
  whole = memory.memory_estimate(_run(12, 8, 'none'))
  split = memory.memory_estimate(
    _run(12, 8, 'none', mesh=MeshSpec(data=1, tensor=2)), devices=2
  )
  assert whole.params / 2 < split.params < whole.params
  assert split.logits == whole.logits // 2


def test_accumulation_halves_activations_and_keeps_a_second_gradient():
  plain = memory.memory_estimate(_run(12, 8, 'none'))
  optim = OptimSpec(accumulate=2)
  accumulated = memory.memory_estimate(_run(12, 8, 'none', optim=optim))
  assert accumulated.activations == plain.activations // 2
  assert accumulated.gradients == plain.gradients + plain.params


def test_encoding_on_the_fly_keeps_the_tokenizer():
  run = dataclasses.replace(_run(12, 8, 'none'), input='images')
  assert memory.memory_estimate(run).frozen == 4 * 108_948_355


def test_tokenizer_training_counts_its_own_weights():
  run = RunSpec(task='reconstruct', batch_size=8)
  estimate = memory.memory_estimate(run)
  assert estimate.params == 4 * 108_948_355
  assert estimate.logits == 0
  assert estimate.activations > estimate.params


@pytest.mark.parametrize(
  ('mesh', 'devices'),
  [
    (MeshSpec(data=3), 4),
    (MeshSpec(data=-1, fsdp=3), 4),
    (MeshSpec(data=-1, fsdp=-1), 4),
    (MeshSpec(data=0), 4),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(mesh, devices):
  with pytest.raises(errors.ConfigError, match='number of devices, 4'):
    memory.mesh_shape(mesh, devices)


def test_the_default_is_the_smallest_mesh_allowed():
  run = _run(12, 16, 'none', mesh=MeshSpec(data=-1, fsdp=4))
  assert memory.memory_estimate(run) == memory.memory_estimate(run, 4)


def test_mesh_fills_the_open_axis():
  assert memory.mesh_shape(MeshSpec(data=-1, fsdp=4), 16) == (4, 4, 1)

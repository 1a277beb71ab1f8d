"""Slices and the step time they allow, by hand."""

import dataclasses
import math

import pytest

from varjax import (
  devices,
  errors,
  flops,
  memory,
  reconstruct_costs,
  roofline,
  schedule,
  tokenizer_costs,
  topology,
)
from varjax.scaling import ladder, proposal, recipe
from varjax.spec import MeshSpec


@pytest.fixture(scope='module')
def d16():
  return recipe.var(ladder.of_run(proposal.var_family()).run(16))


@pytest.mark.parametrize(
  ('text', 'count', 'links'),
  [
    ('v5e:4x4', 16, 2), ('v5e:16x16', 256, 4), ('v5e:2x1', 2, 1),
    ('v6e:8x16', 128, 3), ('v5p:4x4x4', 64, 6), ('v4:2x2x4', 16, 3),
    ('h100:8', 8, 1),
  ],
)  # fmt: skip
def test_a_slice_has_its_chips_and_links(text, count, links):
  found = topology.parse(text)
  assert found.count == count
  assert str(found) == text
  assert found.bandwidth == links * found.device.link_bandwidth


def test_one_device_sends_nothing(d16):
  found = topology.parse('h100:1')
  assert found.bandwidth == math.inf
  made = roofline.roofline(d16, found)
  assert made.link_bytes == made.link_s == 0


@pytest.mark.parametrize(
  'text',
  ['v5e', 'v5e:', 'v5e:4', 'v5e:4x4x4', 'v5p:4x4', 'v5e:0x4', 'v5e:-1x4',
   'v9:4', 'v5e:32x16', 'h100:16', 'h100:4x4', 'v5e:4x', 'v5e:\u00b2x4'],
)  # fmt: skip
def test_other_texts_are_refused(text):
  with pytest.raises(errors.ConfigError, match=r'topology|device'):
    topology.parse(text)


def test_every_device_says_where_its_interconnect_is_from():
  for device in devices.DEVICES.values():
    assert device.link_bandwidth
    assert device.link_bandwidth > 1e10
    assert 'read' in device.link_source or 'unverified' in device.link_source
    # Far slower than memory, or a unit is wrong.
    total = device.link_bandwidth * (2 * device.torus or 1)
    assert total < 0.5 * device.bandwidth


def test_compute_time_by_hand(d16):
  found = roofline.roofline(d16, topology.parse('v5p:4x4x4'))
  # `splash` skips what the mask forbids.
  work = flops.hardware_train_flops_per_image(
    d16.model, d16.tokenizer, skips_masked=True
  )
  seconds = work * 768 / 64 / (459e12 * roofline.COMPUTE_EFFICIENCY)
  assert found.bound == 'compute'
  assert found.step_s == found.compute_s == pytest.approx(seconds)
  assert found.step_s < found.serial_s
  assert found.mfu < roofline.COMPUTE_EFFICIENCY


def test_bytes_of_sharding_by_hand(d16):
  counts = flops.parameter_counts(d16.model, d16.tokenizer)
  sharded = dataclasses.replace(d16, mesh=MeshSpec(1, 16, 1))
  # Two gathers in bfloat16, one scatter in float32, 15/16 of it sent.
  wanted = counts.total * (2 + 2 + 4) * 15 / 16
  assert roofline.link_bytes(sharded, 16) == pytest.approx(wanted)
  copies = dataclasses.replace(d16, mesh=MeshSpec(16, 1, 1))
  wanted = counts.total * 4 * 2 * 15 / 16
  assert roofline.link_bytes(copies, 16) == pytest.approx(wanted)
  tensor = dataclasses.replace(d16, mesh=MeshSpec(1, 1, 2))
  stream = 768 * 680 * 1024 * 2
  wanted = 4 * 16 * stream
  assert roofline.link_bytes(tensor, 2) == pytest.approx(wanted)


def test_a_small_batch_on_many_chips_waits_for_the_interconnect(d16):
  small = dataclasses.replace(d16, batch_size=16)
  found = roofline.roofline(small, topology.parse('v5e:4x4'))
  assert found.bound == 'interconnect'
  assert found.mfu < 0.4
  with pytest.raises(errors.ConfigError, match='multiple of data'):
    roofline.roofline(small, topology.parse('v5e:4x8'))


def test_memory_traffic_exceeds_what_is_held(d16):
  held = memory.memory_estimate(d16, 16)
  moved = roofline.hbm_bytes(d16, 16)
  assert moved > 2 * (held.params + held.moments) + 2 * held.activations
  more = dataclasses.replace(d16, batch_size=1536)
  assert roofline.hbm_bytes(more, 16) > 1.5 * moved


@pytest.fixture(scope='module')
def stage_1(d16):
  return dataclasses.replace(
    d16, task='reconstruct', batch_size=64, mesh=MeshSpec(1, -1, 1)
  )


def test_a_tokenizer_has_a_roofline(stage_1):
  where = topology.parse('h100:8')
  found = roofline.roofline(stage_1, where)
  spec = stage_1.tokenizer
  work = flops.tokenizer_flops_per_image(spec, 'train')
  work = 8 * (work - 3 * tokenizer_costs.enlarging_flops_saved(spec))
  speed = where.device.peak_flops * roofline.COMPUTE_EFFICIENCY
  assert found.compute_s == pytest.approx(work / speed)
  layers = [
    *tokenizer_costs.encoder_layers(spec),
    *tokenizer_costs.decoder_layers(spec),
  ]
  outputs = sum(layer.outputs for layer in layers)
  weights = tokenizer_costs.tokenizer_parameter_counts(spec).total
  # Float32: five moves of every output; weights, gradients and moments of an
  # eighth; the gathered weights forwards and backwards.
  moved = 4 * (8 * 5 * outputs + (2 * 3 + 3) * weights / 8 + 2 * weights)
  assert found.hbm_bytes == pytest.approx(moved, rel=1e-4)
  # Two gathers and one scatter, in float32.
  assert found.link_bytes == pytest.approx(3 * 4 * weights * 7 / 8)


def test_every_loss_of_stage_1_costs_time(stage_1):
  where = topology.parse('h100:1')
  losses = stage_1.reconstruct
  seeing = dataclasses.replace(
    losses,
    perceptual=dataclasses.replace(
      losses.perceptual, backbone='lpips_vgg16', weight=1.0
    ),
  )
  against = dataclasses.replace(
    seeing,
    adversarial=dataclasses.replace(
      losses.adversarial, discriminator='patch', weight=0.4
    ),
  )
  made = [
    roofline.roofline(dataclasses.replace(stage_1, reconstruct=one), where)
    for one in (losses, seeing, against)
  ]
  times = [(one.compute_s, one.hbm_s) for one in made]
  assert times == sorted(times)
  assert len(set(times)) == 3
  run = dataclasses.replace(stage_1, reconstruct=against)
  whole = reconstruct_costs.work(run, _steps(run, done=10), 10).total
  each = reconstruct_costs.update_flops_per_image(run)
  assert whole == 10 * run.batch_size * each


def _steps(run, done):
  steps = schedule.resolve_run(run, 1000)
  assert steps.adversarial is not None
  early = dataclasses.replace(steps.adversarial, start=0)
  return dataclasses.replace(steps, total=done, adversarial=early)


def test_channels_over_devices_are_summed_in_every_residual_block(stage_1):
  cut = dataclasses.replace(stage_1, mesh=MeshSpec(1, 1, 2))
  spec = dataclasses.replace(
    stage_1.tokenizer, ch=8, ch_mult=(1,), num_res_blocks=1, attention=False,
    scales=(1, 4), norm_groups=4,
  )  # fmt: skip
  cut = dataclasses.replace(cut, tokenizer=spec)
  # Blocks: one and two in the middle, then two in the middle and two. Each
  # sums 8 channels of 4 x 4 going out and going back.
  values = 64 * (3 + 4) * 2 * 8 * 16
  assert roofline.link_bytes(cut, 2) == pytest.approx(2 / 2 * values * 4)

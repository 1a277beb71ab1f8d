"""`model.products=fp8`: what is refused, and what it counts as."""

import dataclasses

import jax
import pytest

from varjax import (
  config,
  devices,
  errors,
  flops,
  memory,
  params,
  phases,
  roofline,
  schedule,
  sharding,
  step,
  topology,
  validation,
)
from varjax.phase import total
from varjax.spec import MeshSpec, ModelSpec, RunSpec

D16 = RunSpec(task='generate', model=ModelSpec(), batch_size=64)
WIDTH, DEPTH, ROWS = 1024, 16, 64 * 680


def _with(**changes):
  return dataclasses.replace(
    D16, model=dataclasses.replace(D16.model, **changes)
  )


FP8 = _with(products='fp8')
LINEAR = 2 * 680 * DEPTH * 12 * WIDTH**2  # FLOPs of an image, forwards.


# --------------------------------------------------------------------- refused


def _loaded(**values):
  loaded = config.override(
    config.default_config(), {'data.resolution': 256, **values}
  )
  return config.to_spec(loaded)


def test_configs():
  assert _loaded().model.products == 'compute'
  assert _loaded(**{'model.products': 'fp8'}).model.products == 'fp8'
  with pytest.raises(errors.ConfigError, match='must be one of compute, fp8'):
    _loaded(**{'model.products': 'int8'})
  with pytest.raises(errors.ConfigError, match=r'model\.products=fp8: needs'):
    _loaded(**{'model.products': 'fp8', 'model.compute_dtype': 'float32'})


@pytest.mark.parametrize(
  ('platform', 'capability', 'able'),
  [
    ('cpu', None, True),
    ('gpu', '8.9', True),
    ('cuda', '9.0', True),
    ('gpu', '10.0', True),
    ('gpu', '8.0', False),
    ('gpu', '7.5', False),
    ('gpu', None, False),
    ('rocm', 'gfx942', False),
    ('tpu', None, False),
  ],
)
def test_devices_that_cannot(platform, capability, able):
  validation.check_products(D16.model, platform, capability)
  if able:
    validation.check_products(FP8.model, platform, capability)
    return
  with pytest.raises(errors.ConfigError, match=r'8\.9 or newer') as caught:
    validation.check_products(FP8.model, platform, capability)
  assert platform in str(caught.value)


def test_a_program_asks_for_the_devices_of_its_mesh(monkeypatch):
  steps = schedule.Steps(total=1, warmup=0, evaluate=0, checkpoint=0, log=0)
  mesh = sharding.make_mesh(MeshSpec(), jax.devices()[:1])
  assert step.Program(FP8, steps, mesh).chosen == FP8
  asked = []
  monkeypatch.setattr(
    validation, 'check_products', lambda *given: asked.append(given)
  )
  assert step.Program(FP8, steps, mesh).task.run == FP8
  assert asked == [(FP8.model, 'cpu', None)]


def test_plans_for_devices_without_it_are_refused():
  assert roofline.roofline(D16, topology.parse('v5e:2x2'))
  for name in ('v5e:2x2', 'a100:1'):
    with pytest.raises(errors.ConfigError, match='no products of float8'):
      roofline.roofline(FP8, topology.parse(name))
  with pytest.raises(errors.ConfigError, match='h200, h100 have'):
    total(phases.train_phases(FP8)).seconds(devices.get('v5p'))


# --------------------------------------------------------------------- counted


def test_utilisation_stays_a_share_of_the_bf16_peak():
  h100 = devices.get('h100')
  assert devices.peak_flops('NVIDIA H100 80GB HBM3') == h100.peak_flops
  assert devices.float8_flops(h100) == pytest.approx(
    2 * h100.peak_flops, rel=0.01
  )


@pytest.mark.parametrize('remat', memory.REMAT)
def test_flops_are_those_of_the_blocks_products(remat):
  again = {'slim': LINEAR // 3, 'full': LINEAR}.get(remat, 0)
  run = _with(products='fp8', remat=remat)
  found = flops.float8_train_flops_per_image(run.model, run.tokenizer)
  assert found == 3 * LINEAR + again
  plain = _with(remat=remat)
  assert not flops.float8_train_flops_per_image(plain.model, plain.tokenizer)
  # The same products are computed, in another type.
  every = [phases.train_phases(one) for one in (run, plain)]
  one, other = (total(listed) for listed in every)
  assert one.flops == other.flops
  assert (one.float8, other.float8) == (64 * found, 0)


def test_a_step_takes_float8_at_its_own_peak():
  slice_ = topology.parse('h100:1')
  run, plain = (roofline.roofline(one, slice_) for one in (FP8, D16))
  saved = 64 * 3 * LINEAR * (1 / 989e12 - 1 / 1979e12)
  assert plain.compute_s - run.compute_s == pytest.approx(
    saved / roofline.COMPUTE_EFFICIENCY
  )
  found = {phase.name: phase for phase in phases.train_phases(FP8)}
  h100 = devices.get('h100')
  # As far below its peak as what was timed in bf16.
  assert h100.measured_flops is not None
  share = h100.measured_flops / h100.peak_flops
  assert found['fc1'].seconds(h100) == pytest.approx(
    found['fc1'].flops / (1979e12 * share)
  )


def test_bytes_by_hand():
  found = {phase.name: phase for phase in phases.train_phases(FP8)}
  plain = {phase.name: phase for phase in phases.train_phases(D16)}
  row, square = ROWS * WIDTH, WIDTH**2
  # A byte in, two out.
  assert found['fc1'].bytes == 16 * (row + 4 * square + 2 * 4 * row)
  assert found['fc1, backward'].bytes == 16 * (
    4 * row + 4 * square + 2 * row  # Gradient of the input.
    + row + 4 * row + 4 * 4 * square  # Of the weights, in float32.
  )  # fmt: skip
  # Inputs are 1 + 1 + 1 + 4 widths, outputs 3 + 1 + 4 + 1.
  assert found['largest weights'].bytes == 16 * 4 * 12 * square
  assert found['rounding'].bytes == 16 * (3 * 7 * row + 5 * 12 * square)
  assert found['rounding, backward'].bytes == 16 * (
    4 * 9 * row + 2 * (7 * row + 12 * square)
  )
  counts = params.parameter_counts(D16.model, D16.tokenizer)
  assert plain['casts'].bytes - found['casts'].bytes == 6 * counts.linear
  assert found['norm'] == plain['norm']


def test_what_is_found_again_goes_straight_to_float8():
  found, plain, kept = (
    {phase.name: phase for phase in phases.train_phases(run)}
    for run in (
      _with(products='fp8', remat='light'),
      _with(remat='light'),
      FP8,
    )
  )
  row, square = ROWS * WIDTH, WIDTH**2
  # Norms and activation write 6 widths less in bf16, and 7 in float8, of
  # which one is read from what attention left.
  more = found['recomputation'].bytes - plain['recomputation'].bytes
  assert more == 16 * (-6 * 2 * row + 7 * row + 2 * row + 5 * 12 * square)
  turned = kept['rounding, backward'].bytes - found['rounding, backward'].bytes
  assert turned == 16 * 2 * (7 * row + 12 * square)


def test_what_is_kept_falls_without_rematerialisation_alone():
  for remat in memory.REMAT:
    one, other = (
      memory.memory_estimate(_with(products=products, remat=remat))
      for products in ('fp8', 'compute')
    )
    less = 0
    if remat == 'none':
      # A byte less of the inputs of qkv, fc1 and fc2, one more of proj's.
      less = ROWS * DEPTH * WIDTH * (1 + 1 + 4 - 1)
    assert other.activations - one.activations == less
    linear = flops.parameter_counts(D16.model, D16.tokenizer).linear
    # The compute type rounds all kernels once an update and holds them all;
    # float8 rounds a block's as it goes, and with `none` keeps them.
    gone = 0 if remat == 'none' else linear * (DEPTH - 1) // DEPTH
    saved = 2 * gone + (linear if remat == 'none' else linear // DEPTH)
    assert other.compute_copy - one.compute_copy == saved


def test_the_depth_transformer_keeps_the_compute_type():
  assert params.depth_spec(FP8.model).products == 'compute'

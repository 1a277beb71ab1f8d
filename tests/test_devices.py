"""The device table: names as JAX reports them, and sane numbers."""

import jax
import pytest

from varjax import devices, errors


@pytest.mark.parametrize(
  ('kind', 'name'),
  [
    ('TPU v4', 'v4'),
    ('TPU v5 lite', 'v5e'),
    ('TPU v5', 'v5p'),
    ('TPU v5p', 'v5p'),
    ('TPU v6 lite', 'v6e'),
    ('NVIDIA H100 80GB HBM3', 'h100'),
    ('NVIDIA H200', 'h200'),
    ('NVIDIA A100-SXM4-80GB', 'a100-80gb'),
    ('NVIDIA A100-SXM4-40GB', 'a100'),
  ],
)
def test_device_kinds_are_found(kind, name):
  device = devices.find(kind)
  assert device is devices.get(name)
  assert devices.peak_flops(kind) == device.peak_flops


def test_the_cpu_has_no_peak():
  assert devices.peak_flops(jax.devices('cpu')[0].device_kind) is None


def test_measurements_stay_below_nominal():
  for device in devices.DEVICES.values():
    if device.measured_flops:
      assert 0.5 * device.peak_flops < device.measured_flops
      assert device.measured_flops < device.peak_flops


def test_device_hours_by_hand():
  h100 = devices.get('h100')
  assert devices.device_hours(989e12 * 3600, h100, 0.5) == pytest.approx(2)
  with pytest.raises(errors.ConfigError, match='mfu=0'):
    devices.device_hours(1.0, h100, 0)


def test_an_unknown_device_names_the_known_ones():
  with pytest.raises(errors.ConfigError, match='v5p'):
    devices.get('v9')


@pytest.mark.parametrize('name', ['v4', 'v5e', 'v5p', 'v6e'])
def test_tpus_are_near_what_jax_says_of_them(name):
  """The makers' pages against JAX's own table for kernels."""
  from jax.experimental.pallas import tpu

  version = getattr(tpu.ChipVersion, f'TPU_{name.upper()}')
  cores = 2 if name in ('v4', 'v5p') else 1  # JAX counts one core.
  info = tpu.get_tpu_info_for_chip(version, cores)
  device = devices.get(name)
  found = info.bf16_ops_per_second * cores
  assert device.peak_flops == pytest.approx(found, rel=0.005)
  found = info.hbm_capacity_bytes * cores
  assert device.memory_bytes == pytest.approx(found, rel=0.011)
  # For v5p the documentation says 2765 GB/s and JAX 2460.
  found = info.mem_bw_bytes_per_second * cores
  rel = 0.13 if name == 'v5p' else 0.005
  assert device.bandwidth == pytest.approx(found, rel=rel)

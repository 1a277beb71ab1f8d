"""Peak speed and memory of the accelerators that plans and MFU refer to.

Numbers are of one JAX device (a chip; a v4 or v5p chip is one device in the
megacore configuration). Utilisation is always a share of the maker's
nominal bf16 peak, also where products are float8, so that such a run may
show more than one that computes the same in bf16; `measured_flops` is a
large matrix product that we timed ourselves, where we had the device. No JAX
in here.
"""

from __future__ import annotations

import dataclasses

from varjax import errors


@dataclasses.dataclass(frozen=True)
class Device:
  """One accelerator.

  Attributes:
    name: short name used by plans.
    kinds: beginnings of `jax.Device.device_kind` that mean this device.
    peak_flops: nominal dense bf16 FLOP/s.
    memory_bytes: nominal HBM.
    bandwidth: nominal HBM bytes/s.
    measured_flops: FLOP/s of an 8192^3 bf16 product; null if not measured.
    measured_bandwidth: bytes/s of a device copy; null if not measured.
    torus: axes of the interconnect: 2 or 3 on TPUs, 0 for a switch.
    link_bandwidth: nominal bytes/s that one device sends, one way: over one
      of its 2 * torus links, or into the switch.
    link_source: where `link_bandwidth` is from and how certain it is.
    island: devices that the interconnect joins; more are not modelled.
    float8_flops: nominal dense float8 FLOP/s; null if it has no such
      products, or none that XLA's compiler makes for our devices.
  """

  name: str
  kinds: tuple[str, ...]
  peak_flops: float
  memory_bytes: float
  bandwidth: float
  measured_flops: float | None = None
  measured_bandwidth: float | None = None
  torus: int = 0
  link_bandwidth: float | None = None
  link_source: str = ''
  island: int = 1
  float8_flops: float | None = None

  @property
  def platform(self) -> str:
    """What JAX calls its kind."""
    return 'tpu' if self.torus else 'gpu'

  @property
  def reached_flops(self) -> float:
    """FLOP/s of a large bf16 product: measured if that is known."""
    return self.measured_flops or self.peak_flops

  @property
  def reached_bandwidth(self) -> float:
    """bytes/s of a copy in its memory: measured if that is known."""
    return self.measured_bandwidth or self.bandwidth


# TPU numbers: Cloud TPU documentation, "System architecture" page of each
# version. GPU numbers: the maker's data sheets, dense (without sparsity),
# SXM boards (float8: half of what they print, which is with sparsity). More
# specific kinds come first: 'TPU v5 lite' before 'TPU v5'.
# Measured: one H100 80 GB SXM, jax 0.11.2, 2026-11-23.
# Interconnect: what `link_source` says; a TPU's total over its links is
# divided evenly. None was measured.
_READ = 'read in the Cloud TPU documentation'
_NVLINK = 'from memory, unverified: NVLink of one SXM board, half of both ways'
DEVICES = {
  device.name: device
  for device in (
    Device(
      'v4', ('TPU v4',), 275e12, 32 * 2**30, 1228e9, torus=3,
      link_bandwidth=50e9, island=4096,
      link_source='from memory, unverified: 300 GB/s one way over 6 links',
    ),
    Device(
      'v5e', ('TPU v5 lite', 'TPU v5e'), 197e12, 16 * 2**30, 819e9, torus=2,
      link_bandwidth=50e9, island=256,
      link_source=f'{_READ}: 1600 Gbit/s over 4 links',
    ),
    Device(
      'v5p', ('TPU v5p', 'TPU v5'), 459e12, 95 * 2**30, 2765e9, torus=3,
      link_bandwidth=100e9, island=6144,
      link_source=f'{_READ}: 1200 GB/s both ways over 6 links',
    ),
    Device(
      'v6e', ('TPU v6 lite', 'TPU v6e'), 918e12, 32 * 2**30, 1640e9, torus=2,
      link_bandwidth=100e9, island=256,
      link_source=f'{_READ}: 3200 Gbit/s over 4 links',
    ),
    Device(
      'h200', ('NVIDIA H200',), 989e12, 141e9, 4.8e12, link_bandwidth=450e9,
      link_source=_NVLINK, island=8, float8_flops=1979e12,
    ),
    Device(
      'h100', ('NVIDIA H100',), 989e12, 80e9, 3.35e12, 798e12, 3.0e12,
      link_bandwidth=450e9, link_source=_NVLINK, island=8,
      float8_flops=1979e12,
    ),
    Device(
      'a100-80gb', ('NVIDIA A100-SXM4-80GB', 'NVIDIA A100 80GB'), 312e12,
      80e9, 2.039e12, link_bandwidth=300e9, link_source=_NVLINK, island=8,
    ),
    Device(
      'a100', ('NVIDIA A100',), 312e12, 40e9, 1.555e12,
      link_bandwidth=300e9, link_source=_NVLINK, island=8,
    ),
  )
}  # fmt: skip


def float8_flops(device: Device) -> float:
  """Nominal float8 FLOP/s.

  Raises:
    ConfigError: the device has no such products.
  """
  if device.float8_flops is None:
    able = [name for name, known in DEVICES.items() if known.float8_flops]
    raise errors.ConfigError(
      f'model.products=fp8: {device.name} has no products of float8; of the '
      f'devices, {", ".join(able)} have'
    )
  return device.float8_flops


def find(device_kind: str) -> Device | None:
  """The device of a `jax.Device.device_kind`; null when it is not listed.

  A CPU is never listed: its peak depends on the machine, so a run on one
  records no utilisation rather than an invented one.
  """
  for device in DEVICES.values():
    if device_kind.lower().startswith(
      tuple(kind.lower() for kind in device.kinds)
    ):
      return device
  return None


def get(name: str) -> Device:
  """The device of a short name such as 'v5p'.

  Raises:
    ConfigError: the name is not in the table.
  """
  if name not in DEVICES:
    raise errors.ConfigError(
      f'device {name!r}: must be one of {", ".join(DEVICES)}'
    )
  return DEVICES[name]


def peak_flops(device_kind: str) -> float | None:
  """Nominal bf16 FLOP/s of one device, null when it is not listed."""
  device = find(device_kind)
  return device.peak_flops if device else None


def device_hours(flops: float, device: Device, mfu: float) -> float:
  """Device-hours that `flops` take at a share `mfu` of the nominal peak.

  Raises:
    ConfigError: `mfu` is not in (0, 1].
  """
  if not 0 < mfu <= 1:
    raise errors.ConfigError(f'mfu={mfu}: must be in (0, 1]')
  return flops / (device.peak_flops * mfu) / 3600

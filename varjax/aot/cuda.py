"""The real CUDA compiler on a machine without a GPU.

XLA compiles for a GPU that a text describes: memory, cores, caches. Two
things differ from a machine that has one. Nothing can be timed, so no
kernel is autotuned: matrix products stay calls of cuBLAS, XLA's own Triton
products, which need a measurement, are off. And a program that is too large
compiles all the same, so the verdict is ours: its peak against what JAX
takes of the memory.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from varjax import errors
from varjax.topology import Topology

if TYPE_CHECKING:
  import jax

NAME = 'CUDA'
PLATFORM = 'gpu'
MODULE = 'jax_plugins.xla_cuda12'
PACKAGES = ('jax-cuda12-pjrt', 'jax-cuda12-plugin')
INSTALL = (
  "the CUDA compiler is not installed; pip install 'varjax[cuda]' brings it, "
  'or, where there is no GPU, jax-cuda12-plugin and jax-cuda12-pjrt of the '
  'version of jax alone (about 180 MB)'
)
DURATION = 'up to a minute'
# Of the CUDA libraries that jax-cuda12-pjrt is built for. XLA makes calls of
# float8 products for versions that it knows to have them.
_RUNTIME = '12.9.0'
ENVIRONMENT: dict[str, str] = {}
OPTIONS = {'xla_gpu_enable_triton_gemm': False}
FRACTION = 'XLA_PYTHON_CLIENT_MEM_FRACTION'
_DEFAULT_FRACTION = 0.75
TOO_LARGE = (
  'it compiles, but its peak is above what JAX takes of the memory, a share '
  f'that the environment variable {FRACTION} sets'
)


@dataclasses.dataclass(frozen=True)
class _Chip:
  """What XLA must know of a GPU beside the table of devices.

  Attributes:
    name: as the driver has it.
    memory_bytes: that the driver reports.
    capability: major and minor.
    cores: streaming multiprocessors, with `fpus` float32 units each.
    clock: GHz.
    cache_bytes: of the second level.
    shared_bytes: per core; a block may have 1 KiB less.
  """

  name: str
  memory_bytes: int
  capability: tuple[int, int]
  cores: int
  fpus: int
  clock: float
  cache_bytes: int
  shared_bytes: int


# As the boards report themselves (XLA keeps the same numbers in its
# repository, xla/backends/gpu/target_config/specs).
_HOPPER = ((9, 0), 132, 128, 1.98, 52_428_800, 233_472)
_AMPERE = ((8, 0), 108, 64, 1.41, 41_943_040, 167_936)
_CHIPS = {
  'h100': _Chip('NVIDIA H100 80GB HBM3', 84_942_979_072, *_HOPPER),
  'h200': _Chip('NVIDIA H200', 151_397_597_184, *_HOPPER),
  'a100-80gb': _Chip('NVIDIA A100-SXM4-80GB', 85_100_068_864, *_AMPERE),
  'a100': _Chip('NVIDIA A100-SXM4-40GB', 42_331_013_120, *_AMPERE),
}


def described(slice_: Topology) -> list[jax.Device]:
  """Devices of a node, as XLA's CUDA compiler describes them.

  Raises:
    ConfigError: the GPU is not one that we can describe.
  """
  from jax.experimental import topologies

  found = topologies.get_topology_desc(
    platform='cuda',
    target_config=description(slice_),
    # Slices, hosts of a slice, devices of a host.
    topology=f'1x1x{slice_.count}',
  )
  return list(found.devices)


def usable_bytes(slice_: Topology) -> int:
  """Memory of one device that JAX's allocator takes.

  Raises:
    ConfigError: the share in the environment is not a number above 0, or
      the GPU is not one that we can describe.
  """
  text = os.environ.get(FRACTION, str(_DEFAULT_FRACTION))
  try:
    share = float(text)
  except ValueError:
    share = 0.0
  if not 0 < share <= 1:
    raise errors.ConfigError(
      f'{FRACTION}={text!r}: must be a number above 0, at most 1'
    )
  return int(_chip(slice_).memory_bytes * share)


def description(slice_: Topology) -> str:
  """A GPU as XLA's `GpuTargetConfigProto`, in text.

  Raises:
    ConfigError: the GPU is not one that we can describe.
  """
  chip = _chip(slice_)
  major, minor = chip.capability
  return f"""
    gpu_device_info {{
      threads_per_block_limit: 1024
      threads_per_warp: 32
      shared_memory_per_block: 49152
      shared_memory_per_core: {chip.shared_bytes}
      shared_memory_per_block_optin: {chip.shared_bytes - 1024}
      threads_per_core_limit: 2048
      core_count: {chip.cores}
      runtime_version: "{_RUNTIME}"
      fpus_per_core: {chip.fpus}
      block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535
      block_dim_limit_z: 65535
      memory_bandwidth: {int(slice_.device.bandwidth)}
      l2_cache_size: {chip.cache_bytes}
      clock_rate_ghz: {chip.clock}
      device_memory_size: {chip.memory_bytes}
      cuda_compute_capability {{ major: {major} minor: {minor} }}
      registers_per_core_limit: 65536
      registers_per_block_limit: 65536
    }}
    platform_name: "CUDA"
    dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
    device_description_str: "{chip.name}"
  """


def _chip(slice_: Topology) -> _Chip:
  name = slice_.device.name
  if name not in _CHIPS:
    raise errors.ConfigError(
      f'topology {slice_}: {name} cannot be compiled for without the device; '
      f'of GPUs, {", ".join(_CHIPS)} can'
    )
  return _CHIPS[name]

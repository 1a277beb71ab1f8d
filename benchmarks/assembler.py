"""What a kernel takes of a multiprocessor of an H100, without one.

Shared by attention_kernels.py, elementwise_kernels.py and sampler_kernels.py.
Needs the CUDA compiler (`pip install 'varjax[cuda]'`) and its `ptxas` on the
PATH.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import tempfile

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from varjax import topology
from varjax.aot import target

# Of a multiprocessor of an H100 (CUDA programming guide, compute capability
# 9.0): registers, shared memory with 1 KiB of each block kept, warps, blocks.
_REGISTERS, _SHARED, _RESERVED, _WARPS, _BLOCKS = 65_536, 233_472, 1024, 64, 32


def prepare() -> NamedSharding:
  """Where the arguments of a program for one H100 lie.

  Raises:
    ConfigError: the compiler is not installed.
  """
  slice_ = topology.parse('h100:1')
  target.prepare(slice_)
  mesh = Mesh(np.array(target.devices(slice_)), ('all',))
  return NamedSharding(mesh, PartitionSpec())


def resources(
  lowered: jax.stages.Lowered, name: str, warps: int
) -> dict[str, int]:
  """What one block of threads takes, from the assembler's own report.

  Args:
    lowered: a program with one kernel whose name begins with `name`.
    name: of the kernel.
    warps: of a block.
  """
  with tempfile.TemporaryDirectory() as folder:
    lowered.compile(compiler_options={'xla_dump_to': folder})
    files = list(pathlib.Path(folder).iterdir())
    code = next(
      f
      for f in files
      if f.suffix == '.ptx' and f'.entry {name}' in f.read_text()
    )
    done = subprocess.run(
      ['ptxas', '-v', '-arch=sm_90a', str(code), '-o', f'{folder}/out'],
      capture_output=True, text=True, check=True,
    )  # fmt: skip
    launches = ''.join(
      f.read_text() for f in files if 'thunk_sequence' in f.name
    )
  shared = max(map(int, re.findall(r'shared_memory: (\d+)', launches)))
  registers = int(re.findall(r'Used (\d+) registers', done.stderr)[0])
  spilled = int(re.findall(r'(\d+) bytes spill stores', done.stderr)[0])
  # Registers are handed out to a warp in units of 256.
  of_warp = -(-registers * 32 // 256) * 256
  blocks = min(
    _REGISTERS // (of_warp * warps),
    _SHARED // (shared + _RESERVED),
    _WARPS // warps,
    _BLOCKS,
  )
  return {
    'registers': registers,
    'spilled_bytes': spilled,
    'shared_bytes': shared,
    'blocks_per_core': blocks,
    'warps_per_core': blocks * warps,
  }

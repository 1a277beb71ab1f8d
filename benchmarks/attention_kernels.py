"""What the CUDA compiler makes of the attention kernels, without a GPU.

  python benchmarks/attention_kernels.py
  python benchmarks/attention_kernels.py --kernels dkv --tiles \
    64x64x4x3,64x128x8x2,32x128x4x3

Compiles each kernel for an H100 that is not there, at the shape of one layer
of VAR-d16 with 64 images, and prints one JSON line per case: registers of a
thread, bytes that spill out of them, shared memory, and how many blocks and
warps of threads fit on a multiprocessor at once. Spilling and few warps are
slow; what is fast only a GPU can say.

Needs the CUDA compiler (`pip install 'varjax[cuda]'`) and its `ptxas` on the
PATH.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import re
import subprocess
import tempfile

from attention import LAYOUTS
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import stopwatch

from varjax import topology
from varjax.aot import target
from varjax.models.flash import backward, forward
from varjax.models.flash import tiles as tiling

# Of a multiprocessor of an H100 (CUDA programming guide, compute capability
# 9.0): registers, shared memory with 1 KiB of each block kept, warps.
_REGISTERS, _SHARED, _RESERVED, _WARPS = 65_536, 233_472, 1024, 64


def main(argv: list[str] | None = None) -> None:
  """Compiles every combination of the options."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--kernels', default='forward,dq,dkv')
  parser.add_argument('--tiles', default='', help='of each kernel; the default '
                      'are those that it has')  # fmt: skip
  parser.add_argument('--batch', type=int, default=64)
  parser.add_argument('--heads', type=int, default=16)
  parser.add_argument('--head_size', type=int, default=64)
  parser.add_argument('--layout', default='256', choices=LAYOUTS)
  given = parser.parse_args(argv)
  slice_ = topology.parse('h100:1')
  target.prepare(slice_)
  mesh = Mesh(np.array(target.devices(slice_)), ('all',))
  own = tiling.choose(given.head_size, 2)
  for kernel in given.kernels.split(','):
    texts = given.tiles.split(',') if given.tiles else ['']
    for text in texts:
      tile = getattr(own, kernel)
      if text:
        tile = tiling.Tile(*map(int, text.split('x')))
      for cosine in (False, True):
        _report(kernel, tile, cosine, mesh, given)


def _report(kernel, tile, cosine, mesh, given) -> None:
  case = f'{kernel}/{tile.queries}x{tile.keys}x{tile.warps}x{tile.stages}'
  stopwatch.line(
    'attention_kernels',
    case + '/cosine' * cosine,
    target='h100',
    head_size=given.head_size,
    **_resources(_lowered(kernel, tile, cosine, mesh, given), tile.warps),
  )


def _lowered(kernel, tile, cosine, mesh, given) -> jax.stages.Lowered:
  length = sum(side * side for side in LAYOUTS[given.layout])
  everywhere = NamedSharding(mesh, PartitionSpec())
  of = functools.partial(jax.ShapeDtypeStruct, sharding=everywhere)
  x = of((given.batch, length, given.heads, given.head_size), jnp.bfloat16)
  row = of((given.batch, given.heads, length), jnp.float32)
  rule = of((length,), jnp.int32)
  inverses = (row, row) if cosine else None
  scales = of((given.heads,), jnp.float32) if cosine else None
  function, arguments = {
    'forward': (forward.forward, (x, x, x, rule)),
    'dq': (backward.queries, (x, x, x, x, row, x, rule)),
    'dkv': (backward.keys_and_values, (x, x, x, row, row, x, rule)),
  }[kernel]
  run = functools.partial(function, scale=0.125, tile=tile, interpret=False)
  return jax.jit(run).lower(*arguments, inverses, scales)


def _resources(lowered: jax.stages.Lowered, warps: int) -> dict[str, int]:
  """What one block of threads takes, from the assembler's own report."""
  with tempfile.TemporaryDirectory() as folder:
    lowered.compile(compiler_options={'xla_dump_to': folder})
    files = list(pathlib.Path(folder).iterdir())
    code = next(
      f for f in files if f.suffix == '.ptx' and '.entry flash' in f.read_text()
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
  )
  return {
    'registers': registers,
    'spilled_bytes': spilled,
    'shared_bytes': shared,
    'blocks_per_core': blocks,
    'warps_per_core': blocks * warps,
  }


if __name__ == '__main__':
  main()

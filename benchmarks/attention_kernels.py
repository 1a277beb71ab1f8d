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

import assembler
from attention import LAYOUTS
import jax
import jax.numpy as jnp
import stopwatch

from varjax.models.flash import backward, forward
from varjax.models.flash import tiles as tiling


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
  everywhere = assembler.prepare()
  own = tiling.choose(given.head_size, 2)
  for kernel in given.kernels.split(','):
    texts = given.tiles.split(',') if given.tiles else ['']
    for text in texts:
      tile = getattr(own, kernel)
      if text:
        tile = tiling.Tile(*map(int, text.split('x')))
      for cosine in (False, True):
        _report(kernel, tile, cosine, everywhere, given)


def _report(kernel, tile, cosine, everywhere, given) -> None:
  case = f'{kernel}/{tile.queries}x{tile.keys}x{tile.warps}x{tile.stages}'
  stopwatch.line(
    'attention_kernels',
    case + '/cosine' * cosine,
    target='h100',
    head_size=given.head_size,
    **assembler.resources(
      _lowered(kernel, tile, cosine, everywhere, given), 'flash', tile.warps
    ),
  )


def _lowered(kernel, tile, cosine, everywhere, given) -> jax.stages.Lowered:
  length = sum(side * side for side in LAYOUTS[given.layout])
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


if __name__ == '__main__':
  main()

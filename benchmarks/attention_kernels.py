"""What the CUDA compiler makes of the attention kernels, without a GPU.

  python benchmarks/attention_kernels.py
  python benchmarks/attention_kernels.py --kernels dkv --tiles \\
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
        for packed in (False, True):
          _report(kernel, tile, cosine, packed, everywhere, given)


def _report(kernel, tile, cosine, packed, everywhere, given) -> None:
  case = f'{kernel}/{tile.queries}x{tile.keys}x{tile.warps}x{tile.stages}'
  stopwatch.line(
    'attention_kernels',
    case + '/cosine' * cosine + '/packed' * packed,
    target='h100',
    head_size=given.head_size,
    **assembler.resources(
      _lowered(kernel, tile, cosine, packed, everywhere, given),
      'flash',
      tile.warps,
    ),
  )


def _lowered(
  kernel, tile, cosine, packed, everywhere, given
) -> jax.stages.Lowered:
  length = sum(side * side for side in LAYOUTS[given.layout])
  of = functools.partial(jax.ShapeDtypeStruct, sharding=everywhere)
  x = of((given.batch, length, given.heads, given.head_size), jnp.bfloat16)
  qkv = (x,) * 3
  if packed:
    shape = given.batch, length, 3, given.heads, given.head_size
    qkv = (of(shape, jnp.bfloat16),) * 3
  row = of((given.batch, given.heads, length), jnp.float32)
  rule = of((length,), jnp.int32)
  inverses = (row, row) if cosine else None
  scales = of((given.heads,), jnp.float32) if cosine else None
  function, arguments = {
    'forward': (forward.forward, (*qkv, rule)),
    'dq': (backward.queries, (*qkv, x, row, x, rule)),
    'dkv': (backward.keys_and_values, (*qkv, row, row, x, rule)),
  }[kernel]
  written = (qkv[0],) if packed and kernel == 'dkv' else ()
  run = functools.partial(function, scale=0.125, tile=tile, interpret=False)
  return jax.jit(run).lower(*arguments, inverses, scales, *written)


if __name__ == '__main__':
  main()

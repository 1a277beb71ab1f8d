"""What the CUDA compiler makes of a sampler's kernels, without a GPU.

  python benchmarks/sampler_kernels.py

Compiles the filters and the products of few rows for an H100 that is not
there, and prints one JSON line per case: registers of a thread, bytes that
spill out of them, shared memory, and how many blocks and warps of threads fit
on a multiprocessor at once. Times are what filters.py and few_rows.py print.

Needs the CUDA compiler (`pip install 'varjax[cuda]'`) and its `ptxas` on the
PATH.
"""

from __future__ import annotations

import argparse
import functools

import assembler
import jax
import jax.numpy as jnp
import stopwatch

from varjax.models import few_rows
from varjax.sampling import filter_kernel


def main(argv: list[str] | None = None) -> None:
  """Compiles every combination of the options."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--values', default='1024,4096,8192,16384')
  parser.add_argument('--rows', default='2,32,512')
  parser.add_argument('--width', type=int, default=1024)
  given = parser.parse_args(argv)
  of = functools.partial(jax.ShapeDtypeStruct, sharding=assembler.prepare())
  for values in map(int, given.values.split(',')):
    _filters(of, values)
  for rows in map(int, given.rows.split(',')):
    for weights in ('bfloat16', 'int8'):
      _product(of, rows, weights, given.width)


def _filters(of, values: int) -> None:
  logits = of((64, 256, 1, values), jnp.float32)
  together, warps = filter_kernel.shape(64 * 256, values)
  run = functools.partial(filter_kernel.drawable, count=values // 4, mass=0.96)
  lowered = jax.jit(run).lower(logits, logits, of((), jnp.float32))
  _line(f'filter_rows/v{values}/x{together}x{warps}', lowered, warps)


def _product(of, rows: int, weights: str, width: int) -> None:
  columns = 4 * width
  tile = few_rows.choose(rows, width, columns, jnp.dtype(weights).itemsize)
  scale = of((16, columns), jnp.float32) if weights == 'int8' else None
  run = functools.partial(few_rows.product, out=jnp.bfloat16)
  lowered = jax.jit(run).lower(
    of((rows, width), jnp.bfloat16),
    of((16, width, columns), jnp.dtype(weights)),
    scale,
    of((), jnp.int32),
  )
  shape = 'x'.join(map(str, tile))
  _line(f'few_rows/{weights}/r{rows}/{shape}', lowered, tile.warps)


def _line(case: str, lowered: jax.stages.Lowered, warps: int) -> None:
  facts = assembler.resources(lowered, case.split('/')[0], warps)
  stopwatch.line('sampler_kernels', case, target='h100', **facts)


if __name__ == '__main__':
  main()

"""What the CUDA compiler makes of the fused kernels, without a GPU.

  python benchmarks/elementwise_kernels.py
  python benchmarks/elementwise_kernels.py --widths 2304 --batch 16

Compiles the kernels of `varjax.models.fused` for an H100 that is not there,
alone and with the residual sum, and prints one JSON line per case: rows and
columns that a program holds, registers of a thread, bytes that spill out of
them, shared memory, and how many blocks and warps of threads fit on a
multiprocessor at once. Times are what elementwise.py prints.

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

from varjax.models import norm
from varjax.models.fused import kernels
from varjax.models.fused.rows import Rows


def main(argv: list[str] | None = None) -> None:
  """Compiles every combination of the options."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--widths', default='1024,1280,1536,1920,2304')
  parser.add_argument('--batch', type=int, default=64)
  parser.add_argument('--length', type=int, default=680)
  given = parser.parse_args(argv)
  of = functools.partial(jax.ShapeDtypeStruct, sharding=assembler.prepare())
  for width in map(int, given.widths.split(',')):
    for summed in (False, True):
      _report(of, (given.batch, given.length, width), summed)


def _report(of, shape: tuple[int, int, int], summed: bool) -> None:
  whole = of(shape, jnp.bfloat16)
  vector = of((shape[0], shape[2]), jnp.bfloat16)
  numbers = of(shape[:2], jnp.float32)
  gate = of((shape[0], shape[2]), jnp.float32)
  branch = (whole, gate) if summed else (None, None)
  forward = functools.partial(kernels.forward, eps=norm.EPS, interpret=False)
  backward = functools.partial(kernels.backward, interpret=False)
  rows = Rows.choose(shape[2])
  for name, function, others in (
    ('modulate_forward', forward, (vector, vector)),
    ('modulate_backward', backward, (vector, numbers, numbers, whole, whole)),
  ):
    lowered = jax.jit(function).lower(whole, *branch, *others)
    case = f'{name}/w{shape[2]}' + '/summed' * summed
    stopwatch.line(
      'elementwise_kernels',
      f'{case}/{rows.count}x{rows.columns}x{rows.warps}',
      target='h100',
      **assembler.resources(lowered, name, rows.warps),
    )


if __name__ == '__main__':
  main()

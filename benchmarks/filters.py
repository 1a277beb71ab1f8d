"""Time of guidance, top-k and top-p, by kernel and by XLA's operations.

  python benchmarks/filters.py --batch 1,64 --positions 1,36,256
  python benchmarks/filters.py --quick          tiny, in seconds on a CPU

One JSON line per case, named bBATCH/tPOSITIONS/vVALUES/PATH: both halves of
the logits of one step in, filtered rows out. `roofline_ms` is the time of
reading the halves and of writing the rows at the device's bandwidth, null
where that is not known. `kept_equal` is the share of codes on which a path
agrees with XLA's: a kernel that is fast and wrong shows here. Without a GPU
the kernel is interpreted.
"""

from __future__ import annotations

import argparse
import functools
import itertools

import jax
import jax.numpy as jnp
import stopwatch

from varjax.models import attention
from varjax.sampling import filter_kernel, filters

_FLOAT32 = 4


def main(argv: list[str] | None = None) -> None:
  """Times every combination of the options."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--batch', default='1,64', help='images')
  parser.add_argument('--positions', default='1,36,256', help='of a step')
  parser.add_argument('--values', default='4096', help='in a row of logits')
  parser.add_argument('--top_k', type=int, default=900)
  parser.add_argument('--top_p', type=float, default=0.96)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--calls', type=int, default=20, help='per round')
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  given = parser.parse_args(argv)
  if given.quick:
    given.batch, given.positions, given.values = '2', '4', '64'
    given.top_k, given.rounds, given.calls = 16, 2, 2
  for sizes in itertools.product(
    *(map(int, x.split(',')) for x in (given.batch, given.positions,
                                       given.values))
  ):  # fmt: skip
    _time(*sizes, given)


def _time(batch: int, positions: int, values: int, given) -> None:
  shape = (batch, positions, 1, values)
  yes, no = (jax.random.normal(jax.random.key(i), shape) for i in range(2))
  kernel = functools.partial(
    filter_kernel.drawable, interpret=not attention.on_gpu()
  )
  moved = 3 * yes.size * _FLOAT32
  expected = None
  for path, function in (('xla', filters.plain), ('kernel', kernel)):
    run = jax.jit(
      lambda yes, no, f=function: f(yes, no, 1.5, given.top_k, given.top_p)
    )
    kept = run(yes, no) > -jnp.inf
    expected = kept if expected is None else expected
    samples = stopwatch.seconds(
      functools.partial(run, yes, no), given.rounds, given.calls
    )
    stopwatch.line(
      'filters',
      f'b{batch}/t{positions}/v{values}/{path}',
      bytes=moved,
      roofline_ms=stopwatch.moving_ms(moved),
      kept_equal=round(float(jnp.mean(kept == expected)), 6),
      **stopwatch.timing(samples, batch),
    )


if __name__ == '__main__':
  main()

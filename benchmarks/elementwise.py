"""Time of a block's element-wise work between two products, one layer.

  python benchmarks/elementwise.py
  python benchmarks/elementwise.py --widths 1024,1920 --batch 16,64
  python benchmarks/elementwise.py --quick      tiny, in seconds on a CPU

One JSON line per case, named bBATCH/wWIDTH/WORK/PASS/BY:

  modulate   AdaLN's normalisation, by the kernels of `varjax.models.fused`
             ('fused') or by plain operations ('xla')
  summed     the same after a gated residual sum
  gelu       of four times the width, with the derivative by hand ('hand') or
             autodiff's ('auto'); backwards with the sum over all rows that
             is the gradient of the bias in front of it

`bytes` are those of one kernel each way that reads and writes every array
once, `roofline_ms` their time at the nominal bandwidth, null where the device
is not known. 'both' is forwards and backwards; AdaLN's work goes there with
its kept rows' statistics and the sums for scale, shift and gate.
"""

from __future__ import annotations

import argparse
import itertools

import jax
import jax.numpy as jnp
import stopwatch

from varjax import devices
from varjax.models import activation, norm
from varjax.models.fused import modulate

BY = {
  'modulate': ('fused', 'xla'),
  'summed': ('fused', 'xla'),
  'gelu': ('hand', 'auto'),
}
PASSES = ('forward', 'both')
# Arrays of a stream that are read and written, forwards and backwards.
_STREAMS = {'modulate': (2, 4), 'summed': (4, 6), 'gelu': (8, 12)}


def main(argv: list[str] | None = None) -> None:
  """Times every combination of the options."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--batch', default='64', help='images')
  parser.add_argument('--widths', default='1024', help='channels')
  parser.add_argument('--length', type=int, default=680, help='positions')
  parser.add_argument('--work', default=','.join(BY))
  parser.add_argument('--passes', default=','.join(PASSES))
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--calls', type=int, default=20, help='per round')
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  given = parser.parse_args(argv)
  if given.quick:
    given.batch, given.widths, given.length = '2', '32', 9
    given.rounds, given.calls = 2, 2
  for batch, width, work, which in itertools.product(
    given.batch.split(','),
    given.widths.split(','),
    given.work.split(','),
    given.passes.split(','),
  ):
    if work not in BY or which not in PASSES:
      parser.error(
        f'{work}, {which}: work is {", ".join(BY)}, passes {", ".join(PASSES)}'
      )
    for by in BY[work]:
      shape = int(batch), given.length, int(width)
      _time(shape, work, which, by, given)


def _time(shape, work, which, by, given) -> None:
  batch, length, width = shape
  dtype = jnp.dtype(given.dtype)
  streams = sum(_STREAMS[work][: 1 + (which == 'both')])
  moved = streams * batch * length * width * dtype.itemsize
  device = devices.find(jax.devices()[0].device_kind)
  roofline = round(1e3 * moved / device.bandwidth, 4) if device else None
  facts = {'length': length, 'bytes': moved, 'roofline_ms': roofline}
  try:
    call = _call(shape, dtype, work, by, which == 'both')
    samples = stopwatch.seconds(call, given.rounds, given.calls)
    facts |= stopwatch.timing(samples, batch)
  except jax.errors.JaxRuntimeError as error:
    if not stopwatch.out_of_memory(error):
      raise
    facts['error'] = 'out of memory'
  case = f'b{batch}/w{width}/{work}/{which}/{by}/{given.dtype}'
  stopwatch.line('elementwise', case, **facts)


def _call(shape, dtype, work, by, backward):
  """A compiled call that needs no argument."""
  batch, length, width = shape
  keys = iter(jax.random.split(jax.random.key(0), 9))

  def random(*shape):
    return jax.random.normal(next(keys), shape, dtype)

  if work == 'gelu':
    function = _gelu if by == 'hand' else _gelu_by_autodiff
    arguments = [random(batch, length, 4 * width), random(4 * width)]
  else:
    function = _fused if by == 'fused' else _plain
    arguments = [random(*shape), random(batch, width), random(batch, width)]
    if work == 'summed':
      arguments += [random(*shape), random(batch, width)]

  @jax.jit
  def run(arguments, grads):
    if not backward:
      return function(*arguments)
    out, pull = jax.vjp(function, *arguments)
    return out, pull(grads)

  shapes = jax.eval_shape(function, *arguments)
  grads = jax.tree.map(lambda x: random(*x.shape), shapes)
  return lambda: run(arguments, grads)


def _fused(x, scale, shift, branch=None, gate=None):
  if branch is None:
    return modulate.normed(x, scale, shift)
  return modulate.summed(x, branch, gate, scale, shift)


def _plain(x, scale, shift, branch=None, gate=None):
  if branch is not None and gate is not None:
    x = x + branch * gate[:, None]
  return x, norm.modulate(x, scale, shift)


def _gelu(x, bias):
  return activation.gelu(x + bias[None, None])


def _gelu_by_autodiff(x, bias):
  wide = (x + bias[None, None]).astype(jnp.float32)
  return jax.nn.gelu(wide, approximate=True).astype(x.dtype)


if __name__ == '__main__':
  main()

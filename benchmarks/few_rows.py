"""Time of products of few rows: our kernel, and XLA's, by type of weights.

  python benchmarks/few_rows.py --rows 2,72,512 --width 1024
  python benchmarks/few_rows.py --quick         tiny, in seconds on a CPU

One JSON line per case, named LAYER/rROWS/TYPE/PATH. Every call goes through
all layers of a stack, as a scan over blocks does: XLA's path slices a layer
out of it and, for int8, turns it into bfloat16. `ms` is of all layers;
`roofline_ms` is the time of reading their weights once. `distance` is that
of the result from the product in float32, relative. Without a GPU the kernel
is interpreted.
"""

from __future__ import annotations

import argparse
import functools
import itertools

import jax
import jax.numpy as jnp
import stopwatch

from varjax.models import attention, few_rows, quantised

# Of a block: (inputs, outputs) by the width.
_LAYERS = {'qkv': (1, 3), 'proj': (1, 1), 'fc1': (1, 4), 'fc2': (4, 1)}


def main(argv: list[str] | None = None) -> None:
  """Times every combination of the options."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rows', default='2,32,72,512')
  parser.add_argument('--width', type=int, default=1024)
  parser.add_argument('--depth', type=int, default=16)
  parser.add_argument('--layers', default='qkv,proj,fc1,fc2')
  parser.add_argument('--weights', default='bfloat16,int8')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--calls', type=int, default=20, help='per round')
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  given = parser.parse_args(argv)
  if given.quick:
    given.rows, given.width, given.depth = '3', 32, 2
    given.rounds, given.calls = 2, 2
  for layer, rows, weights in itertools.product(
    given.layers.split(','),
    map(int, given.rows.split(',')),
    given.weights.split(','),
  ):
    _time(layer, rows, weights, given)


def _time(layer: str, rows: int, weights: str, given) -> None:
  inner, columns = (given.width * times for times in _LAYERS[layer])
  key = jax.random.key(0)
  shape = given.depth, inner, columns
  kernels = jax.random.normal(key, shape) / inner**0.5
  x = jax.random.normal(key, (rows, inner)).astype(jnp.bfloat16)
  exact = jnp.einsum(
    'td,df->tf', x.astype(jnp.float32), kernels[-1], precision='highest'
  )
  if weights == 'int8':
    kept = quantised.of_kernel(kernels, 1)
    stack, scale = kept.values, kept.scale
  else:
    stack, scale = kernels.astype(weights), None
  for path, product in (('xla', _by_xla), ('kernel', _by_kernel)):
    run = jax.jit(functools.partial(_through, product))
    made = run(x, stack, scale)
    error = jnp.linalg.norm(made - exact) / jnp.linalg.norm(exact)
    samples = stopwatch.seconds(
      functools.partial(run, x, stack, scale), given.rounds, given.calls
    )
    times = stopwatch.timing(samples, 1)
    del times['images_per_s']
    stopwatch.line(
      'few_rows',
      f'{layer}/r{rows}/{weights}/{path}',
      bytes=stack.nbytes,
      roofline_ms=stopwatch.moving_ms(stack.nbytes),
      distance=float(f'{float(error):.3g}'),
      **times,
    )


def _through(product, x, stack, scale):
  """The result of the last layer; every layer waits for the one before."""

  def body(x, layer):
    made = product(x, stack, scale, layer)
    return x + 0 * made[:, :1].astype(x.dtype), made

  last, made = jax.lax.scan(body, x, jnp.arange(len(stack)))
  return made[-1].astype(jnp.float32) + 0 * last[:, :1].astype(jnp.float32)


def _by_xla(x, stack, scale, layer):
  kernel = stack[layer].astype(x.dtype)
  if scale is not None:
    kernel = kernel * scale[layer][None].astype(x.dtype)
  return x @ kernel


def _by_kernel(x, stack, scale, layer):
  return few_rows.product(
    x, stack, scale, layer, out=x.dtype, interpret=not attention.on_gpu()
  )[:, 0]


if __name__ == '__main__':
  main()

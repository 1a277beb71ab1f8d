"""Time of attention alone, one layer, under static blocks.

  python benchmarks/attention.py --attention flash,cudnn,blockwise
  python benchmarks/attention.py --cosine --attention flash,cudnn
  python benchmarks/attention.py --attention flash --tiles \\
    128x64x4x3/128x32x4x3/64x64x4x3,64x64x4x3/64x64x4x3/64x128x8x2
  python benchmarks/attention.py --quick        tiny, in seconds on a CPU

One JSON line per case, named bBATCH/hHEADS/LAYOUT/PASS/BACKEND/TYPE.
`tflops` counts visible pairs, the backward pass as two forward ones;
`roofline_ms` is the longer of the kernels' own products at the nominal peak
and of their bytes at the nominal bandwidth, null where the device is not
known. `distance` is that of the results (gradients too, where the pass has
them) from those of XLA in float32, relative, for two images: a kernel that is
fast and wrong shows here. With --cosine queries and keys are normalised as in
VAR's blocks: by the flash kernels themselves, for the others before.

Tiles are QUERIESxKEYSxWARPSxSTAGES of forward/dq/dkv, of the flash back end.
"""

from __future__ import annotations

import argparse
import itertools

import jax
import jax.numpy as jnp
import stopwatch

from varjax import devices, scale_schedules
from varjax.models import attention, norm
from varjax.models.flash import block_causal, costs
from varjax.models.flash import tiles as tiling

# Sides of the grids of official VAR at 256 and 512 pixels, and small ones.
LAYOUTS = {
  '256': scale_schedules.PUBLISHED[16],
  '512': scale_schedules.PUBLISHED[32],
  'tiny': (1, 2, 4),
}
PASSES = ('forward', 'both')


def main(argv: list[str] | None = None) -> None:
  """Times every combination of the options."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--batch', default='64', help='images')
  parser.add_argument('--heads', type=int, default=16)
  parser.add_argument('--head_size', type=int, default=64)
  parser.add_argument('--layouts', default='256', help=', '.join(LAYOUTS))
  parser.add_argument('--passes', default='forward,both')
  parser.add_argument('--attention', default='flash,cudnn', help='back ends')
  parser.add_argument('--tiles', default='', help='of flash, see above')
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument(
    '--cosine', action='store_true', help='with normalised queries and keys'
  )
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--calls', type=int, default=20, help='per round')
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  given = parser.parse_args(argv)
  if given.quick:
    given.batch, given.heads, given.head_size = '2', 2, 16
    given.layouts, given.attention = 'tiny', 'flash,xla,blockwise'
    given.rounds, given.calls = 2, 2
  for batch, layout, backend, which in itertools.product(
    given.batch.split(','),
    given.layouts.split(','),
    given.attention.split(','),
    given.passes.split(','),
  ):
    if layout not in LAYOUTS or which not in PASSES:
      parser.error(f'{layout}, {which}: layouts are {", ".join(LAYOUTS)}, '
                   f'passes {", ".join(PASSES)}')  # fmt: skip
    choices = given.tiles.split(',') if backend == 'flash' else ['']
    for text in choices:
      try:
        tiles = parse_tiles(text) if text else None
      except ValueError as error:
        parser.error(str(error))
      _time(int(batch), layout, backend, which, tiles, text, given)


def parse_tiles(text: str) -> tiling.Tiles:
  """Tiles of '128x64x4x3/128x32x4x3/64x64x4x3'.

  Raises:
    ValueError: not three tiles of four numbers, or sides that are no powers
      of two from 16 on.
  """
  kernels = [part.split('x') for part in text.split('/')]
  if len(kernels) != 3 or any(
    len(k) != 4 or not all(n.isdigit() for n in k) for k in kernels
  ):
    raise ValueError(f'--tiles={text}: must be three tiles like 128x64x4x3')
  found = [tiling.Tile(*map(int, kernel)) for kernel in kernels]
  for side in (n for tile in found for n in (tile.queries, tile.keys)):
    if side < tiling.SMALLEST or side & (side - 1):
      raise ValueError(f'--tiles={text}: sides are powers of two from 16 on')
  return tiling.Tiles(*found)


def _time(batch, layout, backend, which, tiles, text, given) -> None:
  blocks = tuple(side * side for side in LAYOUTS[layout])
  shape = (batch, sum(blocks), given.heads, given.head_size)
  dtype = jnp.dtype(given.dtype)
  backward = which == 'both'
  case = f'b{batch}/h{given.heads}/{layout}/{which}/{backend}/{given.dtype}'
  case += '/cosine' * given.cosine + f'/{text}' * bool(text)
  counted = costs.costs(
    blocks, shape, dtype.itemsize, backward=backward, tiles=tiles
  )
  facts = {'length': shape[1], 'head_size': given.head_size}
  if backend == 'flash':
    facts |= _of_kernels(counted)
  try:
    how = backend, backward, tiles, given.cosine
    facts['distance'] = round(_distance(blocks, shape, dtype, *how), 6)
    call = _call(blocks, _inputs(shape, dtype), *how)
    samples = stopwatch.seconds(call, given.rounds, given.calls)
    facts |= stopwatch.timing(samples, batch)
    facts |= stopwatch.speed(counted.flops_visible, samples)
  except jax.errors.JaxRuntimeError as error:
    if not stopwatch.out_of_memory(error):
      raise
    facts['error'] = 'out of memory'
  stopwatch.line('attention', case, **facts)


def _of_kernels(counted: costs.Costs) -> dict:
  """What the flash kernels execute, and what the device would need for it."""
  device = devices.find(jax.devices()[0].device_kind)
  roofline = None
  if device is not None:
    roofline = 1e3 * max(
      counted.flops / device.peak_flops, counted.bytes / device.bandwidth
    )
  return {
    'tiles': counted.visited,
    'executed_flops': counted.flops,
    'share_visible': round(counted.flops_visible / counted.flops, 4),
    'bytes': counted.bytes,
    'roofline_ms': None if roofline is None else round(roofline, 4),
  }


def _distance(blocks, shape, dtype, backend, backward, tiles, cosine) -> float:
  """The worst |found - exact| / |exact| of two images' results."""
  few = (min(shape[0], 2), *shape[1:])
  low = _inputs(few, dtype)
  found = _call(blocks, low, backend, backward, tiles, cosine)()
  wide = [x.astype(jnp.float32) for x in low]
  with jax.default_matmul_precision('highest'):
    exact = _call(blocks, wide, 'xla', backward, None, cosine)()
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
  return max(
    float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b))
    for a, b in pairs
    if jnp.any(b)  # Without --cosine there is no scale to differentiate by.
  )


def _inputs(shape, dtype):
  """Queries, keys, values, gradient; the same numbers in every type."""
  keys = jax.random.split(jax.random.key(0), 4)
  return [jax.random.normal(key, shape).astype(dtype) for key in keys]


def _call(blocks, inputs, backend, backward, tiles, cosine):
  """A compiled call that needs no argument."""
  q, k, v, grad = inputs
  head_scale = jnp.full(q.shape[2], 4.0)

  def attend(q, k, v, head_scale):
    if tiles is not None:
      return block_causal.attend(
        q, k, v, scale=0.125, blocks=blocks, tiles=tiles,
        unit_scale=head_scale if cosine else None,
        interpret=not attention.on_gpu(),
      )  # fmt: skip
    if not cosine:
      return attention.attend(
        q, k, v, scale=0.125, blocks=blocks, backend=backend
      )
    raw = attention.Cosine(q, k, head_scale)
    q = norm.unit(q, head_scale[None, None, :, None])
    k = norm.unit(k, jnp.ones((1, 1, 1, 1)))
    return attention.attend(
      q, k, v, scale=1.0, blocks=blocks, backend=backend, cosine=raw
    )

  @jax.jit
  def run(q, k, v, head_scale, grad):
    if not backward:
      return attend(q, k, v, head_scale)
    return jax.vjp(attend, q, k, v, head_scale)[1](grad)

  return lambda: run(q, k, v, head_scale, grad)


if __name__ == '__main__':
  main()

"""Times of sampling by scales and by raster, with and without a cache.

  python benchmarks/speed_orders.py [--sides 4,8,16] [--plot FILE]

One JSON line per case: {scale, raster} x {cache, no cache} for n x n grids
and one small transformer with random weights. Without a cache, every step
runs the transformer over the whole sequence (the step rule hides what is not
there yet), as a sampler of fixed shapes does; the cost model counts the
prefix alone. Times are CPU time over all cores, which other work on the
machine hardly changes. Costs of sides up to 64 are from the cost model.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import time

from flax.core import meta
import jax
import jax.numpy as jnp

from varjax import decode_costs
from varjax.models.transformer import Transformer
from varjax.orders import make_order, sequence_of
from varjax.orders.base import Turn
from varjax.sampling import loop
from varjax.spec import ModelSpec, OrderSpec, SampleSpec, TokenizerSpec
from varjax.tokenizers import make_tokenizer

MODEL = ModelSpec(
  depth=4, width=64, heads=4, num_classes=9, compute_dtype='float32'
)
VOCAB, CODE_DIM = 256, 8
# Beyond this many steps a run without a cache takes minutes on a CPU.
_MOST_STEPS_WITHOUT_CACHE = 300
_COSTS_OF = (8, 16, 32, 64)


class Uncached:
  """An order whose every turn reads the whole sequence again."""

  cached = False

  def __init__(self, order):
    self._order = order

  def __getattr__(self, name):
    return getattr(self._order, name)

  def start(self, quantizer, keys, given):
    layout = self._order.layout
    rows = layout.positions - layout.start
    kind = jnp.float32 if layout.input_kind == 'features' else jnp.int32
    inputs = jnp.zeros((keys.shape[0], rows, layout.input_dim), kind)
    return self._order.start(quantizer, keys, given), inputs

  def turn(self, state, step, like):
    """The turn of the order, its inputs written among all others."""
    inner, inputs = state
    layout = self._order.layout
    turn = self._order.turn(inner, step, like)
    inputs = self._written(inputs, turn, step)
    everywhere = jnp.arange(layout.positions, dtype=jnp.int32)[None]
    # All rows are computed; those that ask are picked by the wrapper.
    return Turn(inputs, everywhere, everywhere)

  def advance(self, quantizer, state, choice, step, like):
    inner, inputs = state
    turn = self._order.turn(inner, step, like)
    targets = jnp.broadcast_to(
      turn.targets, (len(inputs), turn.targets.shape[1])
    )
    pick = functools.partial(_pick, targets)
    choice = dataclasses.replace(
      choice,
      codes=pick(choice.codes),
      features=pick(choice.features),
      confidence=pick(choice.confidence),
    )
    written = self._written(inputs, turn, step)
    return self._order.advance(quantizer, inner, choice, step, like), written

  def finish(self, state):
    return self._order.finish(state[0])

  def _written(self, inputs, turn, step):
    if turn.inputs is None:
      return inputs
    sizes = self._order.layout.block_sizes
    offsets = jnp.asarray([sum(sizes[:k]) for k in range(len(sizes))])
    row = offsets[step] - self._order.layout.start
    return jax.lax.dynamic_update_slice_in_dim(inputs, turn.inputs, row, 1)


def _pick(targets, values):
  index = targets.reshape(*targets.shape, *(1,) * (values.ndim - 2))
  return jnp.take_along_axis(values, index, axis=1)


def main() -> None:
  """Prints one line per case, then the costs of larger sides."""
  args = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  args.add_argument('--sides', default='4,8,16')
  args.add_argument('--batch', type=int, default=2)
  args.add_argument('--plot', type=pathlib.Path)
  given = args.parse_args()
  rows = []
  for side in map(int, given.sides.split(',')):
    for name in ('scale', 'raster'):
      for cached in (True, False):
        row = _case(side, name, cached, given.batch)
        rows.append(row)
        print(json.dumps(row), flush=True)
  costs = [
    _costs(side, scales, cached)
    for side in _COSTS_OF
    for scales in (True, False)
    for cached in (True, False)
  ]
  for row in costs:
    print(json.dumps(row))
  if given.plot:
    _draw(rows, costs, given.plot)


def _case(side: int, name: str, cached: bool, batch: int) -> dict:
  scales = decode_costs.scale_sides(side) if name == 'scale' else (side,)
  tokenizer = TokenizerSpec(
    ch=8, ch_mult=(1, 1), num_res_blocks=1, norm_groups=4, attention=False,
    scales=scales, vocab=VOCAB, code_dim=CODE_DIM,
  )  # fmt: skip
  order = make_order(OrderSpec(name), tokenizer)
  sequence = sequence_of(OrderSpec(name), tokenizer)
  row = {
    'case': f'{name}_{"cache" if cached else "no_cache"}',
    'side': side,
    'batch': batch,
    'steps': order.turns,
    'flops_per_image': decode_costs.decode_costs(
      MODEL, sequence, cached=cached
    ).flops,
    'device': jax.devices()[0].device_kind,
  }
  if not cached and order.turns > _MOST_STEPS_WITHOUT_CACHE:
    return {**row, 'cpu_s': None, 'note': 'not measured: too many steps'}
  model = Transformer(MODEL, order.layout)
  layout = order.layout
  kind = jnp.float32 if layout.input_kind == 'features' else jnp.int32
  inputs = jnp.zeros(
    (1, layout.positions - layout.start, layout.input_dim), kind
  )
  params = jax.jit(
    lambda key: meta.unbox(model.init(key, jnp.zeros(1, jnp.int32), inputs))
  )(jax.random.key(0))['params']
  made = make_tokenizer(tokenizer, 2 * side)
  quantizer = made.quantizer(meta.unbox(made.init(jax.random.key(1), 2 * side)))
  run = jax.jit(
    lambda params, labels, key: loop.sample(
      model,
      params,
      order if cached else Uncached(order),
      quantizer,
      labels,
      key,
      SampleSpec(cfg=0),
    )
  )
  labels = jnp.zeros(batch, jnp.int32)
  jax.block_until_ready(run(params, labels, jax.random.key(0)))
  times = []
  for repeat in range(2):
    start = time.process_time()
    jax.block_until_ready(run(params, labels, jax.random.key(repeat)))
    times.append(time.process_time() - start)
  return {**row, 'cpu_s': min(times), 'images_per_cpu_s': batch / min(times)}


def _costs(side: int, scales: bool, cached: bool) -> dict:
  def costs(n):
    sequence = decode_costs.grid_sequence(n, scales)
    return decode_costs.decode_costs(MODEL, sequence, cached=cached)

  found, half = costs(side), costs(side // 2)
  return {
    'case': 'costs',
    'order': 'scale' if scales else 'raster',
    'cache': cached,
    'side': side,
    'steps': found.steps,
    'pairs': found.pairs,
    'pairs_exponent': round(math.log2(found.pairs / half.pairs), 3),
    'flops': found.flops,
    'flops_exponent': round(math.log2(found.flops / half.flops), 3),
  }


def _draw(rows: list[dict], costs: list[dict], path: pathlib.Path) -> None:
  import matplotlib as mpl

  mpl.use('Agg')
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
  for scales in (True, False):
    for cached in (True, False):
      name = f'{"scale" if scales else "raster"}'
      style = {
        'color': 'tab:blue' if scales else 'tab:orange',
        'linestyle': '-' if cached else '--',
        'marker': 'o',
        'label': f'{name}, {"cache" if cached else "no cache"}',
      }
      part = [r for r in costs if r['order'] == name and r['cache'] == cached]
      axes[0].plot(
        [r['side'] for r in part], [r['pairs'] for r in part], **style
      )
      key = f'{name}_{"cache" if cached else "no_cache"}'
      part = [r for r in rows if r['case'] == key and r['cpu_s']]
      axes[1].plot(
        [r['side'] for r in part], [r['cpu_s'] for r in part], **style
      )
  axes[0].set(ylabel='attention pairs of an image (counted)')
  axes[1].set(ylabel=f'CPU seconds for {rows[0]["batch"]} images (measured)')
  for axis in axes:
    axis.set(xscale='log', yscale='log', xlabel='side n of the grid')
    axis.legend(fontsize=7)
  figure.tight_layout()
  figure.savefig(path, dpi=110)


if __name__ == '__main__':
  main()

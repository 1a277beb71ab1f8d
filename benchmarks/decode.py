"""Time of sampling images, with guidance, truncation and the decoder.

  python benchmarks/decode.py --sizes d16,d30 --batch 1,8,64,256
  python benchmarks/decode.py --batch 1 --weights int8 --cache int8
  python benchmarks/decode.py --guided 0,8      guidance ends after 8 scales
  python benchmarks/decode.py --quick           tiny, in seconds on a CPU
  python benchmarks/decode.py --costs h100      no run: the analytic model

One JSON line per case: the whole of `VarPipeline.sample` (labels in, images
out, cfg 1.5, top-k 900, top-p .96), which is one program for all scales.
`roofline_ms` is what `varjax.sampling_costs` says that the device cannot go
below, from products and from bytes of weights, cache and logits;
`roofline_share` is how near the measured time comes to it. Both are null
where the device's speed is not known. `weights_read_ms` is the part of it
that a batch of one waits for; so it does for `launches`, kernels one after
the other, whose time nobody has measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from typing import Any

import jax
import jax.numpy as jnp
import networks
import numpy as np
import stopwatch

from varjax import devices, flops
from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.pipeline import VarPipeline
from varjax.sampling_costs import roofline_s, sampling_passes
from varjax.spec import PrecisionSpec, SampleSpec
from varjax.tokenizers import make_tokenizer


def main(argv: list[str] | None = None) -> None:
  """Times every size at every batch."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--sizes', default='d16', help='depths, as d16,d30')
  parser.add_argument('--batch', default='1,8,64', help='images per call')
  parser.add_argument('--cfg', type=float, default=1.5)
  parser.add_argument('--dtype', default='bfloat16', help='compute type')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--calls', type=int, default=5, help='per round')
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  parser.add_argument('--weights', default='', help='int8')
  parser.add_argument('--cache', default='', help='int8')
  parser.add_argument(
    '--guided', default='', help='FIRST,STOP of the scales under guidance'
  )
  parser.add_argument(
    '--costs', default='', help='print the analytic model of this device'
  )
  given = parser.parse_args(argv)
  if given.quick:
    given.sizes, given.batch, given.rounds, given.calls = 'd2', '1,4', 2, 2
  sizes = given.sizes.split(',')
  for size, batch in itertools.product(sizes, given.batch.split(',')):
    _time(int(size[1:]), int(batch), given)


def _time(depth: int, batch: int, given) -> None:
  spec = networks.TINY if given.quick else networks.OFFICIAL
  run = networks.run_of(depth, spec, compute_dtype=given.dtype)
  sample = SampleSpec(
    cfg=given.cfg,
    top_k=min(900, spec.vocab // 4),
    top_p=0.96,
    guided=tuple(map(int, filter(None, given.guided.split(',')))),
  )
  precision = PrecisionSpec(given.dtype, given.weights, given.cache)
  case = f'd{depth}/b{batch}/cfg{given.cfg}/{given.dtype}'
  if given.guided:
    case += f'/guided{given.guided}'
  for name in ('weights', 'cache'):
    if getattr(given, name):
      case += f'/{name}-{getattr(given, name)}'
  passes = sampling_passes(run.model, spec, batch, sample, precision)
  facts = {'params': flops.parameter_counts(run.model, spec).total}
  if given.costs:
    facts |= _roofline(passes, devices.get(given.costs))
    print(json.dumps({'benchmark': 'decode_costs', 'case': case, **facts}))
    return
  facts |= _roofline(passes, devices.find(jax.devices()[0].device_kind))
  try:
    pipe = pipeline_of(run, precision)
    labels = np.arange(batch) % networks.CLASSES

    def call():
      settings = dataclasses.asdict(sample)
      return pipe.sample(labels, jax.random.key(0), **settings)[0]

    samples = stopwatch.seconds(call, given.rounds, given.calls)
    facts |= stopwatch.timing(samples, batch)
    facts |= stopwatch.speed(facts['flops'], samples)
    if facts['roofline_ms'] is not None:
      share = facts['roofline_ms'] / facts['ms']
      facts['roofline_share'] = round(share, 4)
    facts['peak_bytes'] = stopwatch.peak_memory()
  except jax.errors.JaxRuntimeError as error:
    if not stopwatch.out_of_memory(error):
      raise
    facts['error'] = 'out of memory'
  stopwatch.line('decode', case, **facts)


def _roofline(passes, device: devices.Device | None) -> dict[str, Any]:
  """The analytic model of one call; times are null without a device."""
  weights = sum(one.weight_bytes for one in passes)
  facts: dict[str, Any] = {
    'flops': sum(one.flops for one in passes),
    'weight_bytes': weights,
    'cache_bytes': sum(one.cache_bytes for one in passes),
    'logit_bytes': sum(one.logit_bytes for one in passes),
    'filter_bytes': sum(one.filter_bytes for one in passes),
    'launches': sum(one.launches for one in passes),
    'sequential_blocks': sum(one.layers for one in passes),
    'roofline_ms': None,
    'weights_read_ms': None,
    'roofline_share': None,
  }
  if device is not None:
    facts['roofline_ms'] = round(1e3 * roofline_s(passes, device), 3)
    bandwidth = device.reached_bandwidth
    facts['weights_read_ms'] = round(1e3 * weights / bandwidth, 3)
  return facts


def pipeline_of(run, precision: PrecisionSpec) -> VarPipeline:
  """A pipeline with random weights."""
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)
  order = make_order(run.order, run.tokenizer)
  model = Transformer(run.model, order.layout)
  key, label = jax.random.key(0), jnp.zeros(1, jnp.int32)
  layout = order.layout
  inputs = jnp.zeros((1, layout.positions - layout.start, layout.input_dim))
  weights = networks.random_like(
    lambda: model.init({'params': key}, label, inputs)['params']
  )
  return VarPipeline(
    tokenizer,
    networks.random_like(lambda: tokenizer.init(key, run.data.resolution)),
    order,
    model,
    weights,
    precision=precision,
    label='random weights',
  )


if __name__ == '__main__':
  main()

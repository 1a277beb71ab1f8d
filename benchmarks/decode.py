"""Time of sampling images, with guidance, truncation and the decoder.

  python benchmarks/decode.py --sizes d16,d30 --batch 1,8,64,256
  python benchmarks/decode.py --quick           tiny, in seconds on a CPU

One JSON line per case: the whole of `VarPipeline.sample` (labels in, images
out, cfg 1.5, top-k 900, top-p .96), which is one program for all scales.
`tflops` is of `flops.sampling_flops_per_image`. At batch 1 the weights must
be read once per scale: `weights_read_ms` is that floor at the device's
nominal bandwidth, null where that is not known.
"""

from __future__ import annotations

import argparse
import itertools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import stopwatch

from varjax import devices, flops
from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.pipeline import VarPipeline
from varjax.tokenizers import make_tokenizer

_BYTES = {'float32': 4, 'bfloat16': 2}


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
  given = parser.parse_args(argv)
  if given.quick:
    given.sizes, given.batch, given.rounds, given.calls = 'd2', '1,4', 2, 2
  sizes = given.sizes.split(',')
  for size, batch in itertools.product(sizes, given.batch.split(',')):
    _time(int(size[1:]), int(batch), given)


def _time(depth: int, batch: int, given) -> None:
  spec = networks.TINY if given.quick else networks.OFFICIAL
  run = networks.run_of(depth, spec, compute_dtype=given.dtype)
  case = f'd{depth}/b{batch}/cfg{given.cfg}/{given.dtype}'
  facts = {'params': flops.parameter_counts(run.model, spec).total}
  facts['weights_read_ms'] = _floor_ms(facts['params'], run)
  try:
    pipe = pipeline_of(run)
    labels = np.arange(batch) % networks.CLASSES
    top_k = min(900, spec.vocab // 4)

    def call():
      return pipe.sample(
        labels, jax.random.key(0), cfg=given.cfg, top_k=top_k, top_p=0.96
      )[0]

    samples = stopwatch.seconds(call, given.rounds, given.calls)
    work = flops.sampling_flops_per_image(run.model, spec, given.cfg != 0)
    facts |= stopwatch.timing(samples, batch)
    facts |= stopwatch.speed(work.total * batch, samples)
    facts['peak_bytes'] = stopwatch.peak_memory()
  except jax.errors.JaxRuntimeError as error:
    if not stopwatch.out_of_memory(error):
      raise
    facts['error'] = 'out of memory'
  stopwatch.line('decode', case, **facts)


def pipeline_of(run) -> VarPipeline:
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
    label='random weights',
  )


def _floor_ms(params: int, run) -> float | None:
  device = devices.find(jax.devices()[0].device_kind)
  if device is None:
    return None
  read = params * _BYTES[run.model.compute_dtype] * len(run.tokenizer.grids)
  return round(1e3 * read / device.bandwidth, 3)


if __name__ == '__main__':
  main()

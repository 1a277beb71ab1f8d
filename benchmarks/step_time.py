"""Time of one training update on cached codes, with the optimiser.

  python benchmarks/step_time.py --sizes d16,d20,d24,d30 --batch 64
  python benchmarks/step_time.py --sizes d16 --remat none,dots,full \
    --attention auto,xla,blockwise
  python benchmarks/step_time.py --quick        tiny, in seconds on a CPU

One JSON line per case. `tflops` counts by the `dense` convention of
docs/flops.md, that of the speed tables; `tflops_exact` by the one of the
records. A case that needs too much memory says so and the others go on.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time

import jax
import jax.numpy as jnp
import networks
import stopwatch

from varjax import flops, schedule, sharding, step
from varjax import spec as specs
from varjax.tokenizers import make_tokenizer


def main(argv: list[str] | None = None) -> None:
  """Times every combination of the options."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--sizes', default='d16', help='depths, as d16,d20')
  parser.add_argument('--batch', default='64', help='images per update')
  parser.add_argument('--remat', default='dots', help='none,dots,full')
  parser.add_argument('--attention', default='auto', help='back ends')
  parser.add_argument('--dtype', default='bfloat16', help='compute type')
  parser.add_argument('--moments', default='float32', help='first moment')
  parser.add_argument(
    '--fsdp', action='store_true', help='shard the weights over all devices'
  )
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--updates', type=int, default=10, help='per round')
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  given = parser.parse_args(argv)
  if given.quick:
    given.sizes, given.batch, given.rounds, given.updates = 'd2', '4', 2, 2
  choices = (given.sizes, given.batch, given.remat, given.attention)
  for size, batch, remat, attention in itertools.product(
    *(choice.split(',') for choice in choices)
  ):
    _time(int(size[1:]), int(batch), remat, attention, given)


def _time(depth, batch, remat, attention, given) -> None:
  run = dataclasses.replace(
    networks.run_of(
      depth,
      networks.TINY if given.quick else networks.OFFICIAL,
      remat=remat,
      attention=attention,
      compute_dtype=given.dtype,
    ),
    batch_size=batch,
    mesh=specs.MeshSpec(1, -1) if given.fsdp else specs.MeshSpec(-1),
    optim=specs.OptimSpec(moments_dtype=given.moments),
  )
  case = f'd{depth}/b{batch}/{remat}/{attention}/{given.dtype}'
  facts = {'params': flops.parameter_counts(run.model, run.tokenizer).total}
  try:
    facts |= _measure(run, given)
  except jax.errors.JaxRuntimeError as error:
    if not stopwatch.out_of_memory(error):
      raise
    facts['error'] = 'out of memory'
  stopwatch.line('step_time', case, **facts)


def _measure(run, given) -> dict:
  mesh = sharding.make_mesh(run.mesh)
  program = step.Program(run, schedule.resolve_run(run, 1000), mesh)
  frozen, batch = inputs_of(run, mesh)
  state, update = program.init_sharded(), program.jitted(program.task)
  with sharding.use_mesh(mesh):
    start = time.perf_counter()
    update = update.lower(state, frozen, batch).compile()
    compile_s = time.perf_counter() - start

    def call():
      nonlocal state
      state, values = update(state, frozen, batch)
      return values

    samples = stopwatch.seconds(call, given.rounds, given.updates)
  work = flops.conventions(run.model, run.tokenizer)
  exact = stopwatch.speed(work.exact * run.batch_size, samples)
  return {
    **stopwatch.timing(samples, run.batch_size),
    **stopwatch.speed(work.dense * run.batch_size, samples),
    'tflops_exact': exact['tflops'],
    'compile_s': round(compile_s, 2),
    'peak_bytes': stopwatch.peak_memory(),
    'rounds': given.rounds,
    'updates': given.updates,
  }


def inputs_of(run, mesh):
  """Frozen weights and a batch of random codes, as the train loop has them."""
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)
  weights = networks.random_like(
    lambda: tokenizer.init(jax.random.key(0), run.data.resolution)
  )
  frozen = jax.device_put(
    {'quantizer': tokenizer.quantizer(weights)}, sharding.replicated(mesh)
  )
  key = jax.random.key(1)
  shape = (run.batch_size, tokenizer.code_spec.positions, 1)
  batch = {
    'codes': jax.random.randint(key, shape, 0, run.tokenizer.vocab),
    'label': jnp.arange(run.batch_size, dtype=jnp.int32) % networks.CLASSES,
  }
  return frozen, jax.device_put(batch, sharding.batch_sharding(mesh))


if __name__ == '__main__':
  main()

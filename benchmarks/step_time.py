"""Time of one training update on cached codes, with the optimiser.

  python benchmarks/step_time.py --sizes d16,d20,d24,d30 --batch 64
  python benchmarks/step_time.py --sizes d16 --remat none,light,dots,slim \\
    --attention auto,xla,blockwise --loss_chunks 0,8
  python benchmarks/step_time.py --sizes d16 --remat none,light --unroll 1,all
  python benchmarks/step_time.py --sizes d16 --phases h100     nothing is timed
  python benchmarks/step_time.py --quick        tiny, in seconds on a CPU

One JSON line per case. `tflops` counts by the `dense` convention of
docs/flops.md, that of the speed tables; `tflops_exact` by the one of the
records. `roofline_ms` is what `varjax.phases` allows if phases follow each
other, each at the measured speeds of the device, and `of_roofline` its share
of the measured time; null on a device that is not listed. `estimate_bytes`
is the memory model's, beside `peak_bytes`: the most of the process so far,
so that cases of different size belong into different processes. A case that
needs too much memory says so and the others go on.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import time

import jax
import jax.numpy as jnp
import networks
import stopwatch

from varjax import (
  devices,
  flops,
  memory,
  phases,
  schedule,
  sharding,
  step,
)
from varjax import spec as specs
from varjax.phase import serial_seconds, total
from varjax.tokenizers import make_tokenizer


def main(argv: list[str] | None = None) -> None:
  """Times every combination of the options."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--sizes', default='d16', help='depths, as d16,d20')
  parser.add_argument('--batch', default='64', help='images per update')
  parser.add_argument('--remat', default='dots', help='policies, or auto')
  parser.add_argument('--attention', default='auto', help='back ends')
  parser.add_argument('--loss_chunks', default='0', help='parts of the loss')
  parser.add_argument(
    '--unroll',
    default='0',
    help='layers in a trip of the scan, as 1,2,all; all is no scan, 0 what '
    'training takes',
  )
  parser.add_argument(
    '--phases',
    metavar='DEVICE',
    help='print the phases of each case on a device of the table instead',
  )
  parser.add_argument('--dtype', default='bfloat16', help='compute type')
  parser.add_argument(
    '--products', default='compute', help='of the blocks: compute or fp8'
  )
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
  choices = (
    given.sizes, given.batch, given.remat, given.attention, given.loss_chunks,
    given.unroll,
  )  # fmt: skip
  for size, batch, remat, attention, chunks, unroll in itertools.product(
    *(choice.split(',') for choice in choices)
  ):
    depth, batch, chunks = int(size[1:]), int(batch), int(chunks)
    run = _run(depth, batch, remat, attention, chunks, unroll, given)
    if given.phases:
      print(table(run, devices.get(given.phases)))
      continue
    case = f'd{depth}/b{batch}/{remat}/{attention}/{given.dtype}'
    if given.products != 'compute':
      case = f'{case}/{given.products}'
    if unroll != '0':
      case = f'{case}/unroll {unroll}'
    _time(f'{case}/{chunks}' if chunks else case, run, given)


def table(run: specs.RunSpec, device: devices.Device) -> str:
  """The phases of an update as Markdown, with the time that each allows."""
  run = memory.choose_remat(
    run, 1, device.memory_bytes, platform=device.platform
  )
  found = phases.train_phases(run)
  lines = [
    f'd{run.model.depth}, batch {run.batch_size}, remat {run.model.remat}, '
    f'on one {device.name}:',
    '',
    '| phase | TFLOP | GB | kernels | ms |',
    '|---|---|---|---|---|',
  ]
  rows = [(phase, phase.seconds(device)) for phase in found]
  rows.append((total(found), serial_seconds(found, device)))
  lines += [
    f'| {phase.name} | {phase.flops / 1e12:.2f} | {phase.bytes / 1e9:.2f} | '
    f'{phase.launches} | {1e3 * seconds:.2f} |'
    for phase, seconds in rows
  ]
  return '\n'.join(lines)


def _run(
  depth, batch, remat, attention, chunks, unroll, given
) -> specs.RunSpec:
  return dataclasses.replace(
    networks.run_of(
      depth,
      networks.TINY if given.quick else networks.OFFICIAL,
      remat=remat,
      attention=attention,
      compute_dtype=given.dtype,
      products=given.products,
      loss_chunks=chunks,
      **networks.unrolled(unroll),
    ),
    batch_size=batch,
    mesh=specs.MeshSpec(1, -1) if given.fsdp else specs.MeshSpec(-1),
    optim=specs.OptimSpec(moments_dtype=given.moments),
  )


def _time(case: str, run: specs.RunSpec, given) -> None:
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
    update = update.lower(state, frozen, batch, program.hyper).compile()
    compile_s = time.perf_counter() - start

    def call():
      nonlocal state
      state, values = update(state, frozen, batch, program.hyper)
      return values

    samples = stopwatch.seconds(call, given.rounds, given.updates)
  work = flops.conventions(run.model, run.tokenizer)
  exact = stopwatch.speed(work.exact * run.batch_size, samples)
  return {
    **stopwatch.timing(samples, run.batch_size),
    **stopwatch.speed(work.dense * run.batch_size, samples),
    'tflops_exact': exact['tflops'],
    **_limits(program, samples),
    'compile_s': round(compile_s, 2),
    'peak_bytes': stopwatch.peak_memory(),
    'rounds': given.rounds,
    'updates': given.updates,
  }


def _limits(program: step.Program, samples: list[float]) -> dict:
  """What the analytic models say of time and memory."""
  run, count = program.chosen, program.mesh.devices.size
  device = devices.find(jax.devices()[0].device_kind)
  limit = None
  if device is not None:
    # Of one device; replicas share the batch.
    share = dataclasses.replace(run, batch_size=run.batch_size // count)
    limit = serial_seconds(phases.train_phases(share), device)
  took = statistics.median(samples)
  return {
    'remat': run.model.remat,
    'roofline_ms': None if limit is None else round(1e3 * limit, 3),
    'of_roofline': None if limit is None else round(limit / took, 4),
    'estimate_bytes': memory.memory_estimate(
      run, count, platform=jax.default_backend()
    ).total,
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

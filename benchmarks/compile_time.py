"""Time and size of the compiled training step, by depth.

  python benchmarks/compile_time.py --sizes d6,d16,d30 --batch 32
  python benchmarks/compile_time.py --sizes d16 --unroll 1,2,4,all
  python benchmarks/compile_time.py --quick     tiny, in seconds on a CPU

One JSON line per case. Nothing is allocated: the step is lowered from
shapes. `lowered_bytes` is the text of the program before the compiler, and
should not grow with depth while the blocks are one scanned body.
`compile_cpu_s` is of all threads, for a machine that others use too. `cache`
is 'off': the persistent cache is what `startup.py` measures.
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

from varjax import schedule, sharding, step
from varjax import spec as specs
from varjax.tokenizers import make_tokenizer


def main(argv: list[str] | None = None) -> None:
  """Lowers and compiles every size."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--sizes', default='d6,d16,d30')
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--remat', default='dots')
  parser.add_argument('--attention', default='auto')
  parser.add_argument(
    '--unroll',
    default='1',
    help='layers in a trip of the scan, as 1,2,4; all is no scan',
  )
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  given = parser.parse_args(argv)
  if given.quick:
    given.sizes, given.batch, given.unroll = 'd2,d4', 4, '1,all'
  jax.config.update('jax_enable_compilation_cache', False)
  for size, unroll in itertools.product(
    given.sizes.split(','), given.unroll.split(',')
  ):
    _time(int(size[1:]), unroll, given)


def _time(depth: int, unroll: str, given) -> None:
  run = networks.run_of(
    depth,
    networks.TINY if given.quick else networks.OFFICIAL,
    remat=given.remat,
    attention=given.attention,
    **networks.unrolled(unroll),
  )
  run = dataclasses.replace(
    run, batch_size=given.batch, mesh=specs.MeshSpec(1, -1)
  )
  mesh = sharding.make_mesh(run.mesh)
  program = step.Program(run, schedule.resolve_run(run, 1000), mesh)
  state, inputs = program.abstract, abstract_inputs(run, mesh)
  with sharding.use_mesh(mesh):
    start = time.perf_counter()
    lowered = program.jitted(program.task).lower(
      state, *inputs, program.abstract_hyper
    )
    lower_s = time.perf_counter() - start
    text = len(lowered.as_text())
    start, cpu = time.perf_counter(), time.process_time()
    compiled = lowered.compile()
    compile_s = time.perf_counter() - start
    compile_cpu_s = time.process_time() - cpu
  memory, name = compiled.memory_analysis(), f'unroll {unroll}'
  stopwatch.line(
    'compile',
    f'd{depth}/b{given.batch}/{"scan" if unroll == "1" else name}',
    lower_s=round(lower_s, 2),
    compile_s=round(compile_s, 2),
    compile_cpu_s=round(compile_cpu_s, 2),
    lowered_bytes=text,
    temp_bytes=getattr(memory, 'temp_size_in_bytes', None),
    argument_bytes=getattr(memory, 'argument_size_in_bytes', None),
    cache='off',
  )


def abstract_inputs(run, mesh):
  """Shapes of the frozen weights and of a batch, with their shardings."""
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)
  frozen = sharding.abstract_sharded(
    lambda: {
      'quantizer': tokenizer.quantizer(
        tokenizer.init(jax.random.key(0), run.data.resolution)
      )
    },
    mesh,
  )
  rows = sharding.batch_sharding(mesh)
  shape = (run.batch_size, tokenizer.code_spec.positions, 1)
  batch = {
    'codes': jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows),
    'label': jax.ShapeDtypeStruct(shape[:1], jnp.int32, sharding=rows),
  }
  return frozen, batch


if __name__ == '__main__':
  main()

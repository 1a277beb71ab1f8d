"""Lower and compile the real train step for a slice that is not there.

The program is `step.Program`, the one that the train loop runs, from shapes
alone: no data, no weights, no device.
"""

from __future__ import annotations

import time

import jax
from jax.sharding import Mesh

from varjax import collectives, errors, schedule, sharding
from varjax.aot import abstract, cache, parts, refusal, target
from varjax.aot.compiled import Compiled, Memory, Traffic
from varjax.spec import RunSpec
from varjax.step import COMPILER_OPTIONS, Program
from varjax.topology import Topology

# Only turns epochs into updates, which are constants of the schedules.
_IMAGES = 1_281_167


def compiled(run: RunSpec, slice_: Topology) -> Compiled:
  """What the compiler says of a run on a slice, from the cache or anew.

  `target.prepare` must have been called.

  Raises:
    ConfigError: the mesh or the batch does not fit the slice, or the
      compiler refuses for another reason than memory.
  """
  known = cache.find(run, slice_)
  if known is not None:
    return known
  mesh = sharding.make_mesh(run.mesh, target.devices(slice_))
  lowered = lower(run, mesh)
  order = [device.id for device in mesh.devices.flat]
  compiler = target.compiler_of(slice_)
  options = COMPILER_OPTIONS.get(compiler.PLATFORM, {}) | compiler.OPTIONS
  program = cache.program_key(lowered.as_text(), slice_, order, options)
  result = cache.find_program(program)
  if result is None:
    result = compile_lowered(lowered, slice_)
  cache.save(run, slice_, program, result)
  return result


def lower(run: RunSpec, mesh: Mesh) -> jax.stages.Lowered:
  """The train step of the run's last stage, which has every position.

  Args:
    run: what is trained.
    mesh: of real or described devices.

  Raises:
    ConfigError: the batch or a parameter does not divide over the mesh.
  """
  steps = schedule.resolve_run(run, _IMAGES)
  program = Program(run, steps, mesh)
  _, stage = max(program.task.stages(steps), key=lambda item: item[0])
  frozen, batch = abstract.frozen(run, mesh), abstract.batch(run, mesh)
  state, hyper = program.abstract, program.abstract_hyper
  with sharding.use_mesh(mesh):
    return program.jitted(stage).lower(state, frozen, batch, hyper)


def compile_lowered(lowered: jax.stages.Lowered, slice_: Topology) -> Compiled:
  """Compiles, and reads memory and collectives from the result.

  Args:
    lowered: for `target.devices(slice_)`.
    slice_: what it is compiled for.

  Raises:
    ConfigError: the compiler refuses for another reason than memory, or
      says nothing about it.
  """
  compiler, versions = target.compiler_of(slice_), target.versions(slice_)
  start = time.monotonic()
  try:
    program = lowered.compile(compiler_options=compiler.OPTIONS or None)
  except jax.errors.JaxRuntimeError as error:
    return _refused(str(error), time.monotonic() - start, versions)
  seconds = time.monotonic() - start
  stats = program.memory_analysis()
  if stats is None:
    raise errors.ConfigError('this compiler does not report memory')
  limit = compiler.usable_bytes(slice_)
  if limit is not None and stats.peak_memory_in_bytes > limit:
    sizes = refusal.OutOfHbm(stats.peak_memory_in_bytes, limit, partial=False)
    return _unfit(sizes, compiler.TOO_LARGE, seconds, versions)
  text = program.as_text()
  found, listed = collectives.parse(text), parts.parts(text)
  memory = Memory(
    arguments=stats.argument_size_in_bytes,
    outputs=stats.output_size_in_bytes,
    alias=stats.alias_size_in_bytes,
    temp=stats.temp_size_in_bytes,
    code=stats.generated_code_size_in_bytes,
    peak=stats.peak_memory_in_bytes,
  )
  return Compiled(
    fits=True,
    used_bytes=memory.peak,
    partial=False,
    limit_bytes=limit,
    memory=memory,
    collectives={
      kind: Traffic(one.count, one.bytes, one.wire_bytes)
      for kind, one in collectives.totals(found).items()
    },
    hbm_bytes=sum(part.bytes for part in listed),
    parts=listed,
    bounded=all(one.bounded for one in found),
    refusal='',
    seconds=seconds,
    versions=versions,
  )


def _refused(
  message: str, seconds: float, versions: dict[str, str]
) -> Compiled:
  sizes = refusal.parse(message)
  if sizes is None:
    raise errors.ConfigError(
      f'the compiler refuses the program: {message.strip().splitlines()[0]}'
    )
  return _unfit(sizes, message.strip().splitlines()[0], seconds, versions)


def _unfit(
  sizes: refusal.OutOfHbm,
  message: str,
  seconds: float,
  versions: dict[str, str],
) -> Compiled:
  return Compiled(
    fits=False,
    used_bytes=sizes.used_bytes,
    partial=sizes.partial,
    limit_bytes=sizes.limit_bytes,
    memory=None,
    collectives={},
    hbm_bytes=0.0,
    parts=(),
    bounded=True,
    refusal=message,
    seconds=seconds,
    versions=versions,
  )

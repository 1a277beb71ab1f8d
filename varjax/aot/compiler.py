"""Compiles the programs of a run for a slice that is not there.

They are those that the commands run (`programs`), from shapes alone: no
data, no weights, no device.
"""

from __future__ import annotations

import time

import jax

from varjax import collectives, errors
from varjax.aot import cache, parts, programs, refusal, target
from varjax.aot.compiled import Compiled, Memory, Traffic
from varjax.aot.request import Request
from varjax.step import COMPILER_OPTIONS
from varjax.topology import Topology


def compiled(request: Request, slice_: Topology) -> Compiled:
  """What the compiler says of a program on a slice, from the cache or anew.

  `target.prepare` must have been called.

  Raises:
    ConfigError: the mesh or the batch does not fit the slice, or the
      compiler refuses for another reason than memory.
  """
  known = cache.find(request, slice_)
  if known is not None:
    return known
  lowered, mesh = programs.lower(request, target.devices(slice_))
  order = [device.id for device in mesh.devices.flat]
  compiler = target.compiler_of(slice_)
  options = dict(compiler.OPTIONS)
  if request.is_training:
    options = COMPILER_OPTIONS.get(compiler.PLATFORM, {}) | options
  program = cache.program_key(
    request.program, lowered.as_text(), slice_, order, options
  )
  result = cache.find_program(program)
  if result is None:
    result = compile_lowered(lowered, slice_, request.is_training)
  cache.save(request, slice_, program, result)
  return result


def compile_lowered(
  lowered: jax.stages.Lowered, slice_: Topology, is_training: bool = True
) -> Compiled:
  """Compiles, and reads memory and collectives from the result.

  Args:
    lowered: for `target.devices(slice_)`.
    slice_: what it is compiled for.
    is_training: whether it is an update, with passes to tell apart.

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
  found, listed = collectives.parse(text), parts.parts(text, is_training)
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

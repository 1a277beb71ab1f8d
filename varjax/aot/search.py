"""Which mesh, remat policy and number of parts to try, and in which order.

The analytic models propose, the compiler disposes: candidates that cannot
fit are dropped, the others ranked by the roofline, half-way between the
step time with perfect overlap and without any. No JAX in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses

from varjax import errors, memory, topology
from varjax.aot import target
from varjax.aot.compiled import Compiled
from varjax.aot.report import Report, describe, gib
from varjax.aot.request import Request
from varjax.params import hidden_width
from varjax.roofline import Roofline, roofline
from varjax.spec import MeshSpec, RunSpec
from varjax.topology import Topology

# The estimate is good to a quarter: what exceeds the memory by more cannot
# fit, and only what stays below it by as much is promised to.
_HOPE = 1.25
_PROMISE = 0.8
_SUGGESTIONS = 3


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way to run on a slice.

  Attributes:
    run: with its mesh, remat policy and accumulation.
    slice_: where.
    estimate_bytes: of one device, by the analytic model.
    roofline: of one update.
  """

  run: RunSpec
  slice_: Topology
  estimate_bytes: int
  roofline: Roofline

  @property
  def flags(self) -> str:
    """What to type for it."""
    mesh = self.run.mesh
    return (
      f'--topology {self.slice_} --mesh {mesh.data},{mesh.fsdp},{mesh.tensor} '
      f'--config.model.remat={self.run.model.remat} '
      f'--config.optim.accumulate={self.run.optim.accumulate}'
    )


def candidates(run: RunSpec, slice_: Topology) -> list[Candidate]:
  """Every mesh, remat policy and accumulation that divides, best first.

  Raises:
    ConfigError: the run trains a tokenizer.
  """
  if run.task == 'reconstruct':
    raise errors.ConfigError(
      'a search is of transformers only; give --mesh and --config values'
    )
  found = [
    Candidate(
      run=tried,
      slice_=slice_,
      estimate_bytes=memory.memory_estimate(
        tried, slice_.count, platform=slice_.device.platform
      ).total,
      roofline=roofline(tried, slice_),
    )
    for tried in _variants(run, slice_)
  ]
  return sorted(found, key=_rank)


def hopeful(found: list[Candidate]) -> list[Candidate]:
  """Those that may fit, in their order."""
  return [c for c in found if c.estimate_bytes <= _HOPE * _memory(c)]


def suggestions(run: RunSpec, slice_: Topology) -> list[Candidate]:
  """What should fit instead, by the estimate: here, and on larger slices.

  The best of this slice, then of the next larger ones that have any.
  """
  larger = [s for s in topology.slices(slice_.device) if s.count > slice_.count]
  found: list[Candidate] = []
  for where in (slice_, *larger):
    fitting = [
      c
      for c in candidates(run, where)
      if c.estimate_bytes <= _PROMISE * _memory(c)
    ]
    found += fitting[:1]
    if len(found) == _SUGGESTIONS:
      break
  return found


def search(
  run: RunSpec,
  slice_: Topology,
  ask: Callable[[Request, Topology], Compiled],
  tries: int,
  say: Callable[[str], None],
) -> list[Report]:
  """Compiles the most promising candidates; those that fit, fastest first.

  Args:
    run: its batch stays, its mesh, remat and accumulation are searched.
    slice_: where.
    ask: the compiler.
    tries: programs to compile at most.
    say: told of each candidate.

  Raises:
    ConfigError: the run trains a tokenizer, or nothing divides.
  """
  every = candidates(run, slice_)
  if not every:
    raise errors.ConfigError(
      f'batch_size={run.batch_size}: no mesh of {slice_} divides it; choose '
      f'a multiple of {slice_.count}'
    )
  chosen = hopeful(every)
  say(
    f'{len(every)} candidates, of which {len(chosen)} may fit by the estimate; '
    f'compiling {min(tries, len(chosen))}'
  )
  reports = []
  for candidate in chosen[:tries]:
    say(
      f'{candidate.flags}: estimate {gib(candidate.estimate_bytes)}, '
      f'{candidate.roofline.step_s:.3f} to '
      f'{candidate.roofline.serial_s:.3f} s'
    )
    request = Request(candidate.run)
    try:
      result = ask(request, slice_)
    except errors.ConfigError as error:
      say(f'  refused: {error}')
      continue
    reports.append(describe(request, slice_, result))
    say(
      f'  {"fits" if result.fits else "does not fit"}: '
      f'{gib(result.used_bytes)} of {gib(reports[-1].limit_bytes)}'
    )
  return ranked(reports)


def ranked(reports: list[Report]) -> list[Report]:
  """Those that fit, by the middle of their step times, then by memory."""
  return sorted(
    (r for r in reports if r.compiled.fits),
    key=lambda r: (r.roofline.middle_s, r.compiled.used_bytes),
  )


def table(reports: list[Report]) -> str:
  """Reports as rows of text, in their order."""
  head = ('mesh', 'remat', 'parts', 'peak', 'step s', 'no overlap s',
          'MFU', 'bound')  # fmt: skip
  rows = [head]
  for one in reports:
    roof = one.roofline
    rows.append(
      (
        ','.join(map(str, one.mesh)),
        one.remat,
        str(one.accumulate),
        gib(one.compiled.used_bytes),
        f'{roof.step_s:.3f}',
        f'{roof.serial_s:.3f}',
        f'{roof.mfu:.2f}',
        roof.bound,
      )
    )
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    '  '.join(f'{v:{w}}' for v, w in zip(row, widths, strict=True)).rstrip()
    for row in rows
  )


def _rank(candidate: Candidate) -> tuple[float, int]:
  return candidate.roofline.middle_s, candidate.estimate_bytes


def _memory(candidate: Candidate) -> float:
  return target.usable_bytes(candidate.slice_)


def _variants(run: RunSpec, slice_: Topology) -> Iterator[RunSpec]:
  for mesh in _meshes(run, slice_.count):
    rows = mesh.data * mesh.fsdp
    for parts in _powers_of_two(run.batch_size // rows):
      if run.batch_size % (rows * parts):
        continue
      optim = dataclasses.replace(run.optim, accumulate=parts)
      for remat in memory.REMAT:
        model = dataclasses.replace(run.model, remat=remat)
        yield dataclasses.replace(run, mesh=mesh, optim=optim, model=model)


def _meshes(run: RunSpec, count: int) -> Iterator[MeshSpec]:
  """(data, fsdp, tensor) of powers of two that divide the parameters."""
  model = run.model
  for tensor in _powers_of_two(count):
    split = (model.heads, hidden_width(model), run.tokenizer.vocab)
    if count % tensor or any(size % tensor for size in split):
      continue
    for fsdp in _powers_of_two(count // tensor):
      if count % (tensor * fsdp) == 0 and model.width % fsdp == 0:
        yield MeshSpec(count // (tensor * fsdp), fsdp, tensor)


def _powers_of_two(largest: int) -> Iterator[int]:
  power = 1
  while power <= largest:
    yield power
    power *= 2

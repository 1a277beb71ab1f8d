"""A program on a slice: the compiler's facts beside the analytic estimates.

What `varjax aot` prints, and one JSON object per run for tables and plans.
No JAX in here. Conventions: docs/pods.md.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from varjax import memory
from varjax.aot.compiled import Compiled
from varjax.aot.request import Request
from varjax.aot.rooflines import analytic
from varjax.roofline import Roofline
from varjax.spec import PrecisionSpec
from varjax.topology import Topology

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Report:
  """One program on one slice.

  Attributes:
    name: of the run.
    program: of `request.PROGRAMS`.
    topology: the slice.
    mesh: (data, fsdp, tensor); one device but for an update.
    batch_size, accumulate, remat: what decides memory.
    precision: types of a sampler, '' as trained.
    compiled: the facts.
    limit_bytes: HBM of one device, by the compiler if it said.
    estimate_bytes: of the analytic memory model, to compare with
      `compiled.used_bytes`; None but for an update.
    roofline: the least time of a call, with the bytes that the compiled
      program moves; an estimate.
    analytic: the same without the compiler, as plans use it.
  """

  name: str
  program: str
  topology: str
  mesh: tuple[int, int, int]
  batch_size: int
  accumulate: int
  remat: str
  precision: PrecisionSpec
  compiled: Compiled
  limit_bytes: int
  estimate_bytes: int | None
  roofline: Roofline
  analytic: Roofline


def describe(request: Request, slice_: Topology, compiled: Compiled) -> Report:
  """The report of a compiled program.

  Raises:
    ConfigError: the mesh or the batch does not fit the slice.
  """
  run = request.run
  roof = estimate = analytic(request, slice_)
  if compiled.fits:
    roof = roof.moving(slice_, compiled.hbm_bytes, compiled.wire_bytes)
  mesh, accumulate, remat, needed_bytes = (1, 1, 1), 1, 'none', None
  if request.is_training:
    mesh = memory.mesh_shape(run.mesh, slice_.count)
    accumulate = run.optim.accumulate
    needed_bytes = memory.memory_estimate(
      run, slice_.count, platform=slice_.device.platform
    ).total
    if run.task != 'reconstruct':
      remat = run.model.remat
  return Report(
    name=run.name or run.task,
    program=request.program,
    topology=str(slice_),
    mesh=mesh,
    batch_size=request.batch,
    accumulate=accumulate,
    remat=remat,
    precision=request.precision,
    compiled=compiled,
    limit_bytes=compiled.limit_bytes or int(slice_.device.memory_bytes),
    estimate_bytes=needed_bytes,
    roofline=roof,
    analytic=estimate,
  )


def to_json(report: Report) -> dict[str, Any]:
  """The report as JSON values, with what the roofline implies."""
  values = {'schema': 2, 'kind': 'varjax.aot', **dataclasses.asdict(report)}
  for name in ('roofline', 'analytic'):
    roof = getattr(report, name)
    values[name] |= {
      'step_s': roof.step_s, 'serial_s': roof.serial_s, 'bound': roof.bound,
    }  # fmt: skip
  return values


def to_text(report: Report) -> str:
  """The report for people."""
  found = report.compiled
  rows = [
    *_program(report),
    (
      'peak memory',
      f'{needed(found)} of {gib(report.limit_bytes)} on each device: '
      f'{"fits" if found.fits else "DOES NOT FIT"}',
    ),
  ]
  if found.memory:
    rows += [
      (f'  {name}', gib(value))
      for name, value in dataclasses.asdict(found.memory).items()
      if name != 'peak'
    ]
  if report.estimate_bytes is not None:
    ratio = report.estimate_bytes / found.used_bytes
    rows.append(
      (
        '  estimate',
        f'{gib(report.estimate_bytes)} by the analytic model, '
        f'{ratio:.2f} of it',
      )
    )
  if found.fits:
    rows.append(('kernels', f'{found.launches:,} in a call'))
    rows += _traffic(found) if report.program == 'train' else []
    rows += _time(report)
  versions = ', '.join(f'{k} {v}' for k, v in found.versions.items())
  rows.append(('compiler', f'{versions}; {found.seconds:.0f} s'))
  width = max(len(name) for name, _ in rows)
  return '\n'.join(f'{name:{width}}  {value}' for name, value in rows)


def _program(report: Report) -> list[tuple[str, str]]:
  """What was compiled, and for what."""
  if report.program == 'train':
    data, fsdp, tensor = report.mesh
    parts = f'{report.accumulate} part{"s" if report.accumulate > 1 else ""}'
    return [
      ('program', f'train step of {report.name}'),
      (
        'slice',
        f'{report.topology}, mesh {data} x {fsdp} x {tensor} '
        '(data, fsdp, tensor)',
      ),
      (
        'batch',
        f'{report.batch_size} images in {parts}, remat {report.remat}',
      ),
    ]
  types = ', '.join(
    f'{name} {value}'
    for name, value in dataclasses.asdict(report.precision).items()
    if value
  )
  return [
    ('program', f'{report.program} of {report.name}'),
    ('slice', f'one device of {report.topology}'),
    ('batch', f'{report.batch_size} images' + (types and f', {types}')),
  ]


def needed(found: Compiled) -> str:
  """What a device needs, in words."""
  more = ' without its arguments' if found.partial else ''
  return f'{gib(found.used_bytes)}{more}'


def gib(size: float) -> str:
  """Bytes as GiB."""
  return f'{size / GIB:.2f} GiB'


def _traffic(found: Compiled) -> list[tuple[str, str]]:
  more = '' if found.bounded else ' or more, for a loop has unknown trips'
  rows = [('collectives', f'{gib(found.wire_bytes)} sent by a device{more}')]
  return rows + [
    (f'  {kind}', f'{one.count} times, {gib(one.bytes)} received in all')
    for kind, one in found.collectives.items()
  ]


def _time(report: Report) -> list[tuple[str, str]]:
  roof, estimate = report.roofline, report.analytic
  trains = report.program == 'train'
  speed = '' if trains else f', {report.batch_size / roof.step_s:,.0f} images/s'
  rows = [
    (
      'step time' if trains else 'call time',
      f'{seconds(roof.step_s)} by roofline, not measured: bound by '
      f'{roof.bound}, MFU {roof.mfu:.2f}{speed}; {seconds(roof.serial_s)} if '
      'nothing overlaps',
    ),
    ('  compute', seconds(roof.compute_s)),
    (
      '  memory',
      f'{seconds(roof.hbm_s)}, {gib(roof.hbm_bytes)} compiled, '
      f'{gib(estimate.hbm_bytes)} by the analytic model',
    ),
  ]
  if trains:
    rows.append(
      (
        '  interconnect',
        f'{seconds(roof.link_s)}, {gib(roof.link_bytes)} compiled, '
        f'{gib(estimate.link_bytes)} by the analytic model',
      )
    )
  return rows


def seconds(time: float) -> str:
  """A time with three digits behind the point, in ms below a tenth."""
  return f'{1e3 * time:.3f} ms' if time < 0.1 else f'{time:.3f} s'

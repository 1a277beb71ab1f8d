"""A run on a slice: the compiler's facts beside the analytic estimates.

What `varjax aot` prints, and one JSON object per run for tables and plans.
No JAX in here. Conventions: docs/pods.md.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from varjax import memory
from varjax.aot.compiled import Compiled
from varjax.roofline import Roofline, roofline
from varjax.spec import RunSpec
from varjax.topology import Topology

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Report:
  """One train step on one slice.

  Attributes:
    name: of the run.
    topology: the slice.
    mesh: (data, fsdp, tensor).
    batch_size, accumulate, remat: what decides memory.
    compiled: the facts.
    limit_bytes: HBM of one device, by the compiler if it said.
    estimate_bytes: of the analytic memory model, to compare with
      `compiled.used_bytes`.
    roofline: the least step time, with the bytes that the compiled program
      moves; an estimate. None for tokenizers.
    analytic: the same without the compiler, as plans use it.
  """

  name: str
  topology: str
  mesh: tuple[int, int, int]
  batch_size: int
  accumulate: int
  remat: str
  compiled: Compiled
  limit_bytes: int
  estimate_bytes: int
  roofline: Roofline | None
  analytic: Roofline | None


def describe(run: RunSpec, slice_: Topology, compiled: Compiled) -> Report:
  """The report of a compiled run.

  Raises:
    ConfigError: the mesh or the batch does not fit the slice.
  """
  roof = estimate = None
  if run.task != 'reconstruct':
    roof = estimate = roofline(run, slice_)
    if compiled.fits:
      roof = roof.moving(slice_, compiled.hbm_bytes, compiled.wire_bytes)
  return Report(
    name=run.name or run.task,
    topology=str(slice_),
    mesh=memory.mesh_shape(run.mesh, slice_.count),
    batch_size=run.batch_size,
    accumulate=run.optim.accumulate,
    remat=run.model.remat if run.task != 'reconstruct' else 'none',
    compiled=compiled,
    limit_bytes=compiled.limit_bytes or int(slice_.device.memory_bytes),
    estimate_bytes=memory.memory_estimate(
      run, slice_.count, platform=slice_.device.platform
    ).total,
    roofline=roof,
    analytic=estimate,
  )


def to_json(report: Report) -> dict[str, Any]:
  """The report as JSON values, with what the roofline implies."""
  values = {'schema': 1, 'kind': 'varjax.aot', **dataclasses.asdict(report)}
  for name in ('roofline', 'analytic'):
    roof = getattr(report, name)
    if roof:
      values[name] |= {
        'step_s': roof.step_s, 'serial_s': roof.serial_s, 'bound': roof.bound,
      }  # fmt: skip
  return values


def to_text(report: Report) -> str:
  """The report for people."""
  data, fsdp, tensor = report.mesh
  found = report.compiled
  parts = f'{report.accumulate} part{"s" if report.accumulate > 1 else ""}'
  rows = [
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
  ratio = report.estimate_bytes / found.used_bytes
  rows.append(
    (
      '  estimate',
      f'{gib(report.estimate_bytes)} by the analytic model, {ratio:.2f} of it',
    )
  )
  if found.fits:
    rows += _traffic(found)
    rows += _time(report)
  versions = ', '.join(f'{k} {v}' for k, v in found.versions.items())
  rows.append(('compiler', f'{versions}; {found.seconds:.0f} s'))
  width = max(len(name) for name, _ in rows)
  return '\n'.join(f'{name:{width}}  {value}' for name, value in rows)


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
  roof = report.roofline
  if roof is None:
    return [('step time', 'no estimate: the roofline is of transformers')]
  analytic = report.analytic or roof
  return [
    (
      'step time',
      f'{roof.step_s:.3f} s by roofline, not measured: bound by '
      f'{roof.bound}, MFU {roof.mfu:.2f}; {roof.serial_s:.3f} s if nothing '
      'overlaps',
    ),
    ('  compute', f'{roof.compute_s:.3f} s'),
    (
      '  memory',
      f'{roof.hbm_s:.3f} s, {gib(roof.hbm_bytes)} compiled, '
      f'{gib(analytic.hbm_bytes)} by the analytic model',
    ),
    (
      '  interconnect',
      f'{roof.link_s:.3f} s, {gib(roof.link_bytes)} compiled, '
      f'{gib(analytic.link_bytes)} by the analytic model',
    ),
  ]

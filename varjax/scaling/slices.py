"""Plans on a slice of accelerators: device-hours, and what fits in memory.

Between the planner and its command, for `--topology`. The utilisation of a
slice depends on the size that is trained on it and the size on the budget,
so device-hours are turned into FLOPs by iteration.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from varjax import errors, memory
from varjax.roofline import COMPUTE_EFFICIENCY, roofline
from varjax.scaling import recipe
from varjax.scaling.ladder import Ladder
from varjax.scaling.plan import Plan
from varjax.spec import MeshSpec, RunSpec
from varjax.topology import Topology

_ROUNDS = 8


def plan_for_hours(
  planned: Callable[[float], Plan],
  ladder: Ladder,
  hours: float,
  slice_: Topology,
  recipe_name: str,
) -> Plan:
  """The plan for device-hours at the utilisation of its own roofline.

  Args:
    planned: the plan for a number of FLOPs.
    ladder: the sizes of that plan.
    hours: device-hours.
    slice_: where the plan runs.
    recipe_name: decides the batch.

  Returns:
    A plan whose device-hours are at most `hours`; where two sizes hand over
    to each other for ever, the one for the lower utilisation.

  Raises:
    FitRefused, ConfigError: as `planned`, `recipe.apply` and `roofline`.
  """
  if not hours > 0:
    raise errors.ConfigError(f'device_hours={hours}: must be positive')
  peak = hours * 3600 * slice_.device.peak_flops
  mfu, tried = COMPUTE_EFFICIENCY, []
  for _ in range(_ROUNDS):
    found = planned(peak * mfu)
    best = found.best
    run = recipe.apply(recipe_name, ladder.run(best.rung), best.images)
    reached = roofline(run, slice_).mfu
    if abs(reached / mfu - 1) < 1e-9:
      return found
    tried.append(reached)
    mfu = reached
  return planned(peak * min(tried[-2:]))


def with_mesh(base: RunSpec, mesh: str | None, remat: str | None) -> RunSpec:
  """The base of a ladder with another mesh `data,fsdp,tensor` or remat.

  Raises:
    ConfigError: not three integers.
  """
  if mesh is not None:
    try:
      data, fsdp, tensor = (int(part) for part in mesh.split(','))
    except ValueError as error:
      raise errors.ConfigError(
        f'mesh {mesh!r}: write data,fsdp,tensor as 1,-1,1'
      ) from error
    base = dataclasses.replace(base, mesh=MeshSpec(data, fsdp, tensor))
  if remat is not None:
    model = dataclasses.replace(base.model, remat=remat)
    base = dataclasses.replace(base, model=model)
  return base


def check_memory(run: RunSpec, slice_: Topology) -> None:
  """Refuses a run that does not fit, with what would.

  Raises:
    FitRefused: the estimate exceeds the memory of a device.
  """
  needed = memory.memory_estimate(
    run, slice_.count, platform=slice_.device.platform
  ).total
  if needed <= slice_.device.memory_bytes:
    return
  better = suggest(run, slice_)
  hint = 'take a larger slice, or --config with a smaller batch_size'
  if better:
    mesh, remat = better.mesh, better.model.remat
    least = memory.memory_estimate(
      better, slice_.count, platform=slice_.device.platform
    ).total
    words = f'--mesh {mesh.data},{mesh.fsdp},{mesh.tensor} --remat {remat}'
    if better.optim.accumulate != run.optim.accumulate:
      words += (
        f', and optim.accumulate={better.optim.accumulate} by --config and '
        '--recipe keep'
      )
    hint = f'about {least / 2**30:.1f} GiB are needed with {words}'
  raise errors.FitRefused(
    f'{run.name or "the plan"} needs about {needed / 2**30:.1f} GiB a device '
    f'and {slice_.device.name} has '
    f'{slice_.device.memory_bytes / 2**30:.1f}: {hint}'
  )


def suggest(run: RunSpec, slice_: Topology) -> RunSpec | None:
  """The same run with the least change of mesh, remat and parts that fits.

  Weights over all devices first, then recomputation, then tensor
  parallelism, then accumulation; None if nothing fits.
  """
  policies = memory.REMAT
  for parts in (1, 2, 4, 8, 16, 32):
    for tensor in (1, 2, 4, 8):
      for remat in policies[policies.index(run.model.remat) :]:
        fsdp = slice_.count // tensor
        micro = run.batch_size // (parts * run.optim.accumulate)
        if slice_.count % tensor or run.model.heads % tensor:
          continue
        if micro * parts * run.optim.accumulate != run.batch_size:
          continue
        if micro % fsdp:
          continue
        made = dataclasses.replace(
          run,
          mesh=MeshSpec(1, fsdp, tensor),
          model=dataclasses.replace(run.model, remat=remat),
          optim=dataclasses.replace(
            run.optim, accumulate=parts * run.optim.accumulate
          ),
        )
        needed = memory.memory_estimate(
          made, slice_.count, platform=slice_.device.platform
        ).total
        if needed <= slice_.device.memory_bytes:
          return made
  return None

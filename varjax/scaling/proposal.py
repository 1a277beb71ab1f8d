"""A plan made concrete: the run, its exact numbers, and what it costs.

Between the planner and its command: `Plan` says how large and how long,
this adds batch, learning rate, updates, memory and money, as plain values
for plan.json and as a RunSpec for the experiment file.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from varjax import errors, flops, memory, roofline, schedule
from varjax.scaling import costs, recipe, target
from varjax.scaling.costs import Machine
from varjax.scaling.ladder import Ladder
from varjax.scaling.law import Law
from varjax.scaling.plan import Plan
from varjax.spec import DataSpec, Duration, MeshSpec, ModelSpec, RunSpec

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Proposal:
  """One run to train.

  Attributes:
    run: complete and valid.
    steps: updates; images: what they see.
    flops_train: exact, of those updates.
    params_total, params_body: exact counts.
    cost: None without a machine.
  """

  run: RunSpec
  steps: int
  images: int
  flops_train: int
  params_total: int
  params_body: int
  cost: costs.Cost | None


def var_family() -> RunSpec:
  """The base of VAR's family on ImageNet at 256 x 256 (arXiv 2404.02905)."""
  return RunSpec(
    task='generate',
    data=DataSpec(name='imagenet2012', resolution=256),
    model=ModelSpec(remat='dots'),
    mesh=MeshSpec(data=1, fsdp=-1),
  )


def propose(
  ladder: Ladder,
  rung: int,
  images: float,
  recipe_name: str,
  machine: Machine | None = None,
  at_least: bool = False,
) -> Proposal:
  """The run of one size for at most `images` images.

  Args:
    ladder, rung: the size.
    images: to train on.
    recipe_name: key of recipe.RECIPES.
    machine: for its cost.
    at_least: round updates up instead, to reach a loss.

  Raises:
    ConfigError: an unknown recipe, or a machine that the batch or mesh does
      not fit.
    FitRefused: fewer images than one batch.
  """
  run = recipe.apply(recipe_name, ladder.run(rung), images)
  # A hair of tolerance: images come from a division of floats.
  steps = int(images * (1 + 1e-12) // run.batch_size)
  if at_least:
    steps = math.ceil(images * (1 - 1e-12) / run.batch_size)
  if steps < 1:
    raise errors.FitRefused(
      f'{images:.3g} images are less than one batch of {run.batch_size}; '
      'raise the budget or lower the batch'
    )
  run = dataclasses.replace(
    run,
    name=f'plan-{ladder.name(rung)}',
    total=Duration(steps=steps),
    evaluate=Duration(frac=0.1),
    checkpoint=Duration(frac=0.1),
  )
  counts = flops.parameter_counts(run.model, run.tokenizer)
  work = flops.train_flops_per_image(run.model, run.tokenizer).total
  return Proposal(
    run=run,
    steps=steps,
    images=steps * run.batch_size,
    flops_train=work * steps * run.batch_size,
    params_total=counts.total,
    params_body=counts.body,
    cost=costs.cost(run, steps, machine) if machine else None,
  )


def base_images(run: RunSpec, unique_images: int | None) -> int:
  """Images that the base config trains on: the ladder's own length.

  Raises:
    ConfigError: it is given in epochs and the data set's size is not known.
  """
  steps = schedule.resolve(
    run.total, batch_size=run.batch_size, unique_images=unique_images or 0
  )
  return steps * run.batch_size


def predictions(
  law: Law,
  ladder: Ladder,
  rungs: list[int],
  images: float,
  budget: float | None,
  recipe_name: str,
  machine: Machine | None,
) -> list[dict[str, Any]]:
  """Named sizes at one training length, for laws with and without data.

  Args:
    law: predicts the losses.
    ladder: the family of the sizes.
    rungs: which of them.
    images: of the training of each.
    budget: FLOPs; None where nothing limits them.
    recipe_name: batch and learning rate, key of `recipe.RECIPES`.
    machine: what the cost is of; None without one.

  Returns:
    One mapping a size: exact counts, FLOPs, predicted loss, whether the
    budget pays for it, and its cost.
  """
  from varjax.scaling import ladder as ladders
  from varjax.scaling.plan import extrapolation

  rows = []
  for rung in rungs:
    made = propose(ladder, rung, images, recipe_name, machine)
    n = ladders.params(made.run, law.n_convention)
    positions = flops.sequence_of(made.run.tokenizer).positions
    tokens = made.images * positions if law.has_surface else None
    found = law.predict(n, tokens)
    rows.append(
      {
        'name': ladder.name(rung),
        'n': n,
        'loss': found.value,
        'lo': found.lo,
        'hi': found.hi,
        'extrapolation': extrapolation(law, n, tokens),
        'affordable': None if budget is None else made.flops_train <= budget,
        **_numbers(made),
      }
    )
  return rows


def as_json(
  law: Law, ladder: Ladder, found: Plan, made: Proposal, recipe_name: str,
  machine: Machine | None,
) -> dict[str, Any]:  # fmt: skip
  """plan.json: everything the plan says, as plain values.

  Args:
    law, ladder: what the plan was made with.
    found: the plan.
    made: the run that it proposes.
    recipe_name: batch and learning rate of that run.
    machine: what its cost is of; None without one.
  """
  return {
    'schema': SCHEMA,
    'kind': 'varjax.plan',
    'law': {
      'name': law.name, 'form': law.form, 'params': law.params, 'y': law.y,
      'n_convention': law.n_convention,
    },
    'ladder': ladder.rule,
    'recipe': recipe_name,
    'repeat': None,
    'target_loss': found.target_loss,
    'demand': dataclasses.asdict(found.demand),
    'optimum': dataclasses.asdict(found.optimum),
    'best': {
      **dataclasses.asdict(found.best),
      **_numbers(made),
      'depth': made.run.model.depth,
      'width': made.run.model.width,
      'heads': made.run.model.heads,
      'batch_size': made.run.batch_size,
      'lr_peak': peak_lr(made.run),
    },
    'sizes': [dataclasses.asdict(s) for s in found.sizes],
    'equal_loss': target.equal_loss(law, ladder, found),
    'extrapolation': found.extrapolation,
    'machine': _machine(made, machine),
    'warnings': [
      *found.warnings, *_fit_warnings(made, machine), *_caveats(recipe_name)
    ],
  }  # fmt: skip


def peak_lr(run: RunSpec) -> float:
  """The learning rate after warm-up, with its batch scaling applied."""
  reference = run.optim.lr_reference_batch
  return run.optim.lr * (run.batch_size / reference if reference else 1.0)


def _numbers(made: Proposal) -> dict[str, Any]:
  return {
    'params_total': made.params_total,
    'params_body': made.params_body,
    'steps': made.steps,
    'images': made.images,
    'flops_train': made.flops_train,
    'cost': None if made.cost is None else dataclasses.asdict(made.cost),
  }


def _machine(made: Proposal, machine: Machine | None) -> dict[str, Any] | None:
  """Where the plan runs, and what its step time was computed from."""
  if machine is None or made.cost is None:
    return None
  slice_ = machine.topology
  found = {
    'device': machine.device.name, 'count': machine.count,
    'mfu': made.cost.mfu, 'mfu_source': machine.source,
    'price_per_device_hour': machine.price,
    'memory_bytes': machine.device.memory_bytes,
    'topology': str(slice_) if slice_ else None, 'mesh': None, 'bound': None,
    'serial_step_s': None, 'assumed': None,
  }  # fmt: skip
  roof = made.cost.roofline
  if slice_ is None or roof is None:
    return found
  data, fsdp, tensor = memory.mesh_shape(made.run.mesh, slice_.count)
  return {
    **found,
    'mesh': {'data': data, 'fsdp': fsdp, 'tensor': tensor},
    'bound': roof.bound,
    'serial_step_s': roof.serial_s,
    'assumed': {
      'peak_flops': machine.device.peak_flops,
      'compute_efficiency': roofline.COMPUTE_EFFICIENCY,
      'hbm_bandwidth': machine.device.bandwidth,
      'hbm_efficiency': roofline.HBM_EFFICIENCY,
      'link_bandwidth': machine.device.link_bandwidth,
      'link_efficiency': roofline.LINK_EFFICIENCY,
      'link_source': machine.device.link_source,
    },
  }


def _caveats(recipe_name: str) -> list[str]:
  known = recipe.CAVEATS.get(recipe_name)
  return [known] if known else []


def _fit_warnings(made: Proposal, machine: Machine | None) -> list[str]:
  if machine is None or made.cost is None or made.cost.fits:
    return []
  return [
    f'about {made.cost.memory_bytes / 2**30:.0f} GiB a device are needed and '
    f'{machine.device.name} has {machine.device.memory_bytes / 2**30:.0f}: '
    'use more devices, optim.accumulate, or model.remat=full'
  ]

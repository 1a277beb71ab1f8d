"""`varjax plan`: what to train with a compute budget, from a fitted law.

  varjax plan --fit D/fit.json --budget 1e21 --out plan.py
  varjax plan --fit D/fit.json --device_hours 500 --device h100 --mfu 0.45
  varjax plan --fit D/fit.json --device_hours 500 --topology v5e:4x4
  varjax plan --fit D/fit.json --target_loss 5.6 --inference_images 1e8
  varjax plan --fit D/fit.json --sizes d16,d20 --device v5p --price 4.2

The sizes are those of --config, or of the sweep in --records, or VAR's on
ImageNet at 256 pixels. --out writes an experiment file that `varjax train`
takes, and plan.json beside it. Exit code 3: the fit cannot support a plan.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

import pandas as pd

from varjax import config, errors, records, schedule
from varjax.scaling import (
  costs,
  experiment_file,
  menu,
  notation,
  plan_text,
  proposal,
  recipe,
  repeats,
  slices,
  sweepdir,
  target,
)
from varjax.scaling import ladder as ladders
from varjax.scaling import law as laws
from varjax.scaling import plan as planner
from varjax.scaling.ladder import Ladder
from varjax.tools import arguments
from varjax.tools import machine as machines


def main(argv: Sequence[str]) -> int:
  """Prints the plan and writes what --out and --json name.

  Args:
    argv: arguments behind `varjax plan`.

  Raises:
    FitRefused: the fit cannot support a plan.
    ConfigError, RecordError: bad arguments or files.
  """
  args = _parser().parse_args(argv)
  law = laws.of_fit(_read_fit(args.fit))
  table = _load(args.records)
  ladder, unique = _ladder(args, table)
  machine = machines.of_args(args, table, ladder.base)
  _check_goals(args)
  budget = args.budget or machines.flops_of(args.device_hours, machine)
  if args.sizes:
    return _print_sizes(args, law, ladder, unique, machine, budget)

  repeat = _repeat(args)
  constant = repeat.best if repeat else args.repeat_constant

  def planned(
    flops: float,
    constant: float | None = constant,
    extrapolate: bool = args.extrapolate,
  ) -> planner.Plan:
    demand = menu.Demand(
      flops=flops,
      inference_images=args.inference_images,
      unique_images=unique,
      repeat_constant=constant,
    )
    if args.target_loss is not None:
      return target.plan_for_loss(
        law, ladder, args.target_loss, demand, extrapolate
      )
    return planner.plan(law, ladder, demand, extrapolate)

  found = _plan(args, planned, ladder, machine, budget)
  run = ladder.run(found.best.rung)
  compiled = machines.check(
    recipe.apply(args.recipe, run, found.best.images), machine, args.compile
  )
  made = proposal.propose(
    ladder, found.best.rung, found.best.images, args.recipe, machine,
    at_least=args.target_loss is not None,
  )  # fmt: skip
  values = proposal.as_json(law, ladder, found, made, args.recipe, machine)
  values['compiled'] = dataclasses.asdict(compiled) if compiled else None
  if repeat:
    values['repeat'] = repeats.compare(
      repeat, lambda value: planned(found.demand.flops, value, True)
    )
    values['warnings'] += values['repeat'].pop('warnings')
  print(plan_text.text(values))
  if compiled:
    print(machines.compiled_line(compiled))
  for path in _write(args, values, made.run, argv):
    print(f'wrote {path}')
  return 0


def _plan(
  args: argparse.Namespace,
  planned: Callable[[float], planner.Plan],
  ladder: Ladder,
  machine: costs.Machine | None,
  budget: float | None,
) -> planner.Plan:
  """The plan for the goal that was given.

  Raises:
    ConfigError: none was.
  """
  if args.target_loss is not None:
    return planned(1.0)  # what a loss costs is the answer, not the question
  if budget is not None:
    return planned(budget)
  if args.device_hours is not None and machine and machine.topology:
    return slices.plan_for_hours(
      planned, ladder, args.device_hours, machine.topology, args.recipe
    )
  raise errors.ConfigError(
    'give --budget FLOPS, --device_hours HOURS or --target_loss LOSS'
  )


def _check_goals(args: argparse.Namespace) -> None:
  goals = ('budget', 'device_hours', 'target_loss')
  given = [name for name in goals if getattr(args, name) is not None]
  if len(given) > 1:
    raise errors.ConfigError(
      f'give --{given[0]} or --{given[1]}, not both: a plan has one goal'
    )
  if args.budget is not None and not args.budget > 0:
    raise errors.ConfigError(f'budget={args.budget}: must be positive')


def _parser() -> argparse.ArgumentParser:
  parser = arguments.parser('plan', __doc__ or '')
  add = parser.add_argument
  add('--fit', required=True, help='fit.json, or the directory it is in')
  add(
    '--budget',
    type=float,
    help='FLOPs of training and inference together, as 1e21',
  )
  add(
    '--device_hours', '--device-hours', type=float,
    help='device-hours instead of FLOPs; needs --device or --topology',
  )  # fmt: skip
  add(
    '--target_loss', '--target-loss', type=float, metavar='LOSS',
    help='the cheapest run that reaches this loss, instead of a budget',
  )  # fmt: skip
  machines.add_arguments(parser)
  add('--config', help='experiment file whose family of sizes to use')
  add('--records', help='records.jsonl of a ladder: its family and its mfu')
  add(
    '--recipe', choices=list(recipe.RECIPES),
    help='batch and learning rate; default keep with --config or --records, '
    'else var',
  )  # fmt: skip
  add(
    '--unique_images', '--unique-images', type=int,
    help='images in the training split: what is beyond is repeated',
  )  # fmt: skip
  add(
    '--repeat_constant', '--repeat-constant', type=float,
    help='R_D* of repeated data in epochs (weakly known: try several)',
  )  # fmt: skip
  add(
    '--repeat_fit', '--repeat-fit', metavar='FIT',
    help='fit.json with a fit of the form repeat: plans for its R_D* and for '
    'both ends of its interval',
  )  # fmt: skip
  add(
    '--inference_images', '--inference-images', type=float, default=0.0,
    help='images to be sampled with guidance over the life of the model, '
    'paid from the budget or added to the cost of the loss',
  )  # fmt: skip
  add('--sizes', help='predict these sizes instead, as d16,d20')
  add('--extrapolate', action='store_true', help='plan even 30 times beyond')
  add('--out', help='experiment file to write')
  add('--json', help='plan.json to write (default: beside --out)')
  return parser


def _read_fit(path: str) -> dict[str, Any]:
  file = pathlib.Path(path)
  file = file / 'fit.json' if file.is_dir() else file
  fit = sweepdir.read_json(file, dict)
  if fit is None:
    raise errors.RecordError(f'{file}: no such fit; run `varjax fit` first')
  return fit


def _repeat(args: argparse.Namespace) -> repeats.Repeat | None:
  if args.repeat_fit is None:
    return None
  if args.repeat_constant is not None:
    raise errors.ConfigError('give --repeat_fit or --repeat_constant, not both')
  return repeats.of_fit(_read_fit(args.repeat_fit))


def _load(path: str | None) -> pd.DataFrame | None:
  if path is None:
    return None
  file = pathlib.Path(path)
  return records.load(file / 'records.jsonl' if file.is_dir() else file)


def _ladder(
  args: argparse.Namespace, table: pd.DataFrame | None
) -> tuple[Ladder, int | None]:
  """The family of sizes, and the images of its training split."""
  unique = args.unique_images
  given = args.config or table is not None
  args.recipe = args.recipe or ('keep' if given else 'var')
  if args.config:
    base = config.to_spec(config.load(args.config), args.config)
    ladder = ladders.of_run(base)
  elif table is not None:
    rows = table[(table['task'] != 'reconstruct')]
    rows = rows[(rows['status'] == 'complete') & rows['config_json'].notna()]
    runs = [
      config.from_json(text, f'config_json of {run_id}')
      for text, run_id in zip(rows['config_json'], rows['run_id'], strict=True)
    ]
    ladder = ladders.of_runs(runs)
    known = rows['unique_images'].dropna()
    unique = unique or (int(known.max()) if len(known) else None)
  else:
    ladder = ladders.of_run(proposal.var_family())
  base = slices.with_mesh(ladder.base, args.mesh, args.remat)
  ladder = dataclasses.replace(ladder, base=base)
  return ladder, unique or schedule.KNOWN_IMAGES.get(ladder.base.data.name)


def _print_sizes(
  args: argparse.Namespace,
  law: laws.Law,
  ladder: Ladder,
  unique: int | None,
  machine: costs.Machine | None,
  budget: float | None,
) -> int:
  """Predictions for named sizes at the ladder's own training length."""
  rungs = [_rung(text.strip(), ladder) for text in args.sizes.split(',')]
  images = proposal.base_images(ladder.base, unique)
  rows = proposal.predictions(
    law, ladder, rungs, images, budget, args.recipe, machine
  )
  print(f'{law.name} ({law.form}), N counts {law.n_convention}')
  print(f'{ladder.rule}; {notation.count(images)} images each')
  if not law.has_surface:
    print('L(N) alone: valid for the training length of the fitted runs only')
  print(plan_text.sizes_table(rows))
  if args.json:
    path = pathlib.Path(args.json)
    _replace(path, _dump({'kind': 'varjax.predictions', 'sizes': rows}))
    print(f'wrote {path}')
  return 0


def _rung(text: str, ladder: Ladder) -> int:
  for rung in ladder.rungs:
    if ladder.name(rung) == text:
      return rung
  first, last = ladder.rungs[0], ladder.rungs[-1]
  raise errors.ConfigError(
    f'size {text!r}: must be {ladder.name(first)} to {ladder.name(last)} '
    f'of the family with {ladder.rule}'
  )


def _write(
  args: argparse.Namespace, plan: dict[str, Any], run: Any, argv: Sequence[str]
) -> list[pathlib.Path]:
  written = []
  if args.out:
    out = pathlib.Path(args.out)
    _replace(out, experiment_file.source(run, _docstring(plan, argv)), run)
    written.append(out)
  if args.out or args.json:
    path = pathlib.Path(
      args.json or pathlib.Path(args.out).parent / 'plan.json'
    )
    _replace(path, _dump(plan))
    written.append(path)
  return written


def _docstring(plan: dict[str, Any], argv: Sequence[str]) -> str:
  best = plan['best']
  return (
    f'{best["name"]} for {plan_text.goal(plan)}, planned by '
    f'varjax.\n\n  varjax plan {" ".join(argv)}\n\n'
    f'Predicted loss {best["loss"]:.4f} {notation.interval(best, 4)} by '
    f'{plan["law"]["name"]}; {best["flops_train"]:.4e} training FLOPs.\n'
  )


def _dump(value: dict[str, Any]) -> str:
  return json.dumps(value, indent=1, allow_nan=False) + '\n'


def _replace(path: pathlib.Path, text: str, run: Any = None) -> None:
  """Writes atomically; an experiment file must load as `run` first."""
  if not path.parent.is_dir():
    raise errors.ConfigError(f'{path}: the folder {path.parent} is missing')
  partial = path.with_name(f'.{path.stem}.partial{path.suffix}')
  partial.write_text(text, encoding='utf-8')
  try:
    if run is not None:
      loaded = config.to_spec(config.load(str(partial)), str(path))
      if dataclasses.asdict(loaded) != dataclasses.asdict(run):
        raise errors.ConfigError(f'{path}: does not describe the plan')
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

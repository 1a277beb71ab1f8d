"""`varjax plan`: what to train with a compute budget, from a fitted law.

  varjax plan --fit D/fit.json --budget 1e21 --out plan.py
  varjax plan --fit D/fit.json --device_hours 500 --device h100 --mfu 0.45
  varjax plan --fit D/fit.json --sizes d16,d20 --device v5p --price 4.2

The sizes are those of --config, or of the sweep in --records, or VAR's on
ImageNet at 256 pixels. --out writes an experiment file that `varjax train`
takes, and plan.json beside it. Exit code 3: the fit cannot support a plan.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

import pandas as pd

from varjax import config, devices, errors, records
from varjax.scaling import (
  costs,
  experiment_file,
  notation,
  proposal,
  recipe,
  sweepdir,
)
from varjax.scaling import ladder as ladders
from varjax.scaling import law as laws
from varjax.scaling import plan as planner
from varjax.scaling.ladder import Ladder

_DEFAULT_MFU = 0.4


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
  machine = _machine(args, table)
  budget = _budget(args, machine)
  if args.sizes:
    return _print_sizes(args, law, ladder, unique, machine, budget)
  if budget is None:
    raise errors.ConfigError('give --budget FLOPS or --device_hours HOURS')
  demand = planner.Demand(
    flops=budget,
    inference_images=args.inference_images,
    unique_images=unique,
    repeat_constant=args.repeat_constant,
  )
  found = planner.plan(law, ladder, demand, args.extrapolate)
  made = proposal.propose(
    ladder, found.best.rung, found.best.images, args.recipe, machine
  )
  values = proposal.as_json(law, ladder, found, made, args.recipe, machine)
  print(_text(values))
  for path in _write(args, values, made.run, argv):
    print(f'wrote {path}')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='varjax plan',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--fit', required=True, help='fit.json, or the directory it is in')
  add('--budget', type=float, help='FLOPs, training and inference together')
  add('--device_hours', '--device-hours', type=float)
  add('--device', help=f'one of {", ".join(devices.DEVICES)}')
  add('--devices', type=int, default=1, help='how many (default 1)')
  add('--mfu', type=float, help=f'utilisation (default {_DEFAULT_MFU})')
  add('--price', help='per device-hour, or a JSON file {device: price}')
  add('--config', help='experiment file whose family of sizes to use')
  add('--records', help='records.jsonl of a ladder: its family and its mfu')
  add(
    '--recipe', choices=list(recipe.RECIPES),
    help='batch and learning rate; default keep with --config or --records, '
    'else var',
  )  # fmt: skip
  add('--unique_images', '--unique-images', type=int)
  add(
    '--repeat_constant', '--repeat-constant', type=float,
    help='R_D* of repeated data in epochs (weakly known: try several)',
  )  # fmt: skip
  add(
    '--inference_images', '--inference-images', type=float, default=0.0,
    help='images to be sampled with guidance, paid from the budget',
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
  return ladder, unique or proposal.KNOWN_IMAGES.get(ladder.base.data.name)


def _machine(
  args: argparse.Namespace, table: pd.DataFrame | None
) -> costs.Machine | None:
  if args.device is None:
    for name in ('device_hours', 'price', 'mfu'):
      if getattr(args, name) is not None:
        raise errors.ConfigError(f'--{name} needs --device')
    return None
  device = devices.get(args.device)
  mfu, source = args.mfu, 'given'
  if mfu is None and table is not None and table['mfu'].notna().any():
    mfu, source = costs.measured_mfu(table, device)
  elif mfu is None:
    mfu, source = _DEFAULT_MFU, 'assumed'
  price = costs.price_of(args.price, device)
  return costs.Machine(device, args.devices, mfu, source, price)


def _budget(
  args: argparse.Namespace, machine: costs.Machine | None
) -> float | None:
  if args.budget is not None and args.device_hours is not None:
    raise errors.ConfigError('give --budget or --device_hours, not both')
  if args.device_hours is None or machine is None:
    return args.budget
  if args.device_hours <= 0:
    raise errors.ConfigError(
      f'device_hours={args.device_hours}: must be positive'
    )
  return args.device_hours * 3600 * machine.device.peak_flops * machine.mfu


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
  print(_sizes_table(rows))
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


def _sizes_table(rows: list[dict[str, Any]]) -> str:
  lines = ['size      body    total    FLOPs      loss   95 % interval']
  for row in rows:
    paid = {True: '', False: '  beyond the budget', None: ''}
    cost = row['cost']
    hours = f'  {cost["device_hours"]:,.0f} device-h' if cost else ''
    far = row['extrapolation']
    lines.append(
      f'{row["name"]:6}'
      f'{notation.count(row["params_body"]):>8}'
      f'{notation.count(row["params_total"]):>9}'
      f'{row["flops_train"]:>9.2e}'
      f'{row["loss"]:>10.4f}'
      f'   {notation.interval(row, 4)}'
      f'{hours}{paid[row["affordable"]]}'
      f'{f"  {far:.1f}x beyond the fit" if far > 2 else ""}'
    )
  return '\n'.join(lines)


def _text(plan: dict[str, Any]) -> str:
  """The plan for a terminal."""
  best, law, top = plan['best'], plan['law'], plan['optimum']
  epochs = best['epochs']
  lines = [
    f'{law["name"]} ({law["form"]}), N counts {law["n_convention"]}; '
    f'{plan["ladder"]}',
    f'budget {plan["demand"]["flops"]:.3e} FLOPs',
    f'continuous optimum, C = {top["k"]:.2f} N D: '
    f'N* = {notation.count(top["n"])}{_range(top["n_interval"])}, '
    f'D* = {notation.count(top["d"])} tokens{_range(top["d_interval"])}, '
    f'loss {top["loss"]:.4f}',
    '',
    f'train {best["name"]}: depth {best["depth"]}, width {best["width"]}, '
    f'heads {best["heads"]}',
    f'  parameters   {best["params_total"]:,} '
    f'({best["params_body"]:,} in the blocks)',
    f'  images       {best["images"]:,}'
    + (f' ({epochs:.1f} epochs)' if epochs else ''),
    f'  updates      {best["steps"]:,} of {best["batch_size"]} images, '
    f'peak lr {best["lr_peak"]:.3g} (recipe {plan["recipe"]})',
    f'  FLOPs        {best["flops_train"]:.4e} training'
    + (
      f', {best["flops_inference"]:.3e} inference'
      if best['flops_inference'] else ''
    ),
    f'  loss         {best["loss"]:.4f} {notation.interval(best, 4)} '
    '(95 % for a new run)',
  ]  # fmt: skip
  cost, machine = best['cost'], plan['machine']
  if cost:
    money = '' if cost['money'] is None else f', cost {cost["money"]:,.0f}'
    lines += [
      f'  time         {cost["step_s"]:.3f} s an update, '
      f'{cost["wall_h"]:,.1f} h on {machine["count"]} x {machine["device"]} '
      f'at mfu {machine["mfu"]:.2f} ({machine["mfu_source"]})',
      f'  device-hours {cost["device_hours"]:,.1f}{money}',
      f'  memory       {cost["memory_bytes"] / 2**30:.1f} GiB a device '
      '(estimate)',
    ]
  lines += ['', 'size     images   epochs      loss  wasted compute']
  for size in _near(plan['sizes'], best['rung']):
    ep = '–' if size['epochs'] is None else f'{size["epochs"]:.1f}'
    lines.append(
      f'{size["name"]:6}{notation.count(size["images"]):>9}{ep:>9}'
      f'{size["loss"]:>10.4f}{100 * size["deadweight"]:>14.1f} %'
      f'{"  <- planned" if size["rung"] == best["rung"] else ""}'
    )
  lines += [f'warning: {w}' for w in plan['warnings']]
  return '\n'.join(lines)


def _near(sizes: list[dict], rung: int, each_side: int = 4) -> list[dict]:
  at = next(i for i, s in enumerate(sizes) if s['rung'] == rung)
  return sizes[max(0, at - each_side) : at + each_side + 1]


def _range(interval: Any) -> str:
  if not interval:
    return ''
  low, high = interval
  return f' [{notation.count(low)}, {notation.count(high)}]'


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
    f'{best["name"]} for {plan["demand"]["flops"]:.3g} FLOPs, planned by '
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

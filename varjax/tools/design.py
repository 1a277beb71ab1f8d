"""`varjax design`: a sweep that can be fitted, before it is paid for.

  varjax design --budget 1e21 --family var --out sweeps/isoflop.py
  varjax design --budget 1e21 --kind ladder --lengths 3
  varjax design --budget 5e14 --config 'experiments/emoji_var.py:size={size}' \\
    --sizes d1,d2,d3,d4,d5,d6,d7,d8,d9,d10,d11,d12

Prints the runs, their cost, the Jacobian condition of L(N, D) on them, and
the intervals that simulated studies give. The law in the simulation is
--assume fit.json, or a stated guess. Exit code 3: no fittable sweep.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import sys

from varjax import config, devices, errors, flops, schedule, sweep
from varjax.scaling import design, notation, sweep_file, sweepdir
from varjax.scaling import law as laws
from varjax.scaling.law import Law
from varjax.tools import arguments

_FAMILIES = {
  'var': (
    'experiments/var_imagenet256.py:size={size}',
    tuple(f'd{depth}' for depth in range(6, 31, 2)),
  ),
}


def main(argv: Sequence[str]) -> int:
  """Prints the design and writes what --out and --json name.

  Args:
    argv: arguments behind `varjax design`.

  Raises:
    FitRefused: the budget gives no sweep that can be fitted.
    ConfigError, RecordError: bad arguments or files.
  """
  args = _parser().parse_args(argv)
  template, sizes = _sizes(args)
  law = _law(args.assume)
  if args.kind == 'isoflop':
    cells = design.isoflop(
      law, sizes, args.budget, args.budgets, args.per_budget,
      args.span or 30.0, args.spread,
    )  # fmt: skip
  else:
    cells = design.ladder(
      law, sizes, args.budget, args.lengths, args.span or 16.0
    )
  made = design.judge(
    args.kind, cells, law, args.noise, args.studies, args.seed, args.target
  )
  print(_text(made, sizes, law, args))
  for path in _write(args, made, template, law, argv):
    print(f'wrote {path}')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = arguments.parser('design', __doc__ or '')
  add = parser.add_argument
  add(
    '--budget',
    type=float,
    required=True,
    help='FLOPs of the whole sweep, as 1e21',
  )
  add(
    '--kind', choices=['isoflop', 'ladder'], default='isoflop',
    help='sizes at fixed budgets, or sizes at common training lengths',
  )  # fmt: skip
  add(
    '--family', choices=list(_FAMILIES), default='var',
    help='model sizes to choose from: VAR d6 to d30 on ImageNet 256',
  )  # fmt: skip
  add('--config', help="experiment with '{size}', instead of --family")
  add('--sizes', help='names for {size}, as d6,d8,d10')
  add('--budgets', type=int, default=5, help='isoflop: compute budgets')
  add('--per_budget', type=int, default=6, help='isoflop: sizes at each')
  add('--spread', type=float, default=6.0,
      help='isoflop: sizes from N*/SPREAD to N* SPREAD')  # fmt: skip
  add('--lengths', type=int, default=3, help='ladder: training lengths')
  add(
    '--span', type=float,
    help='largest over smallest budget or length; 30 for isoflop and 16 for '
    'ladder if unset',
  )  # fmt: skip
  add('--assume', metavar='FIT', help='fit.json with the law to simulate')
  add(
    '--noise',
    type=float,
    default=0.005,
    help='standard deviation of log loss between runs',
  )
  add('--studies', type=int, default=400, help='simulated studies')
  add('--seed', type=int, default=0, help='of the simulated studies')
  add(
    '--target', type=float, help='FLOPs at which the best size is extrapolated'
  )
  add('--device', help='print device-hours at 40 %% of its nominal peak')
  add('--out', help='sweep file to write')
  add('--json', help='JSON file of the design to write')
  return parser


def _sizes(args: argparse.Namespace) -> tuple[str, design.SizeList]:
  template, names = _FAMILIES[args.family]
  if args.config:
    if args.config.count('{size}') != 1 or not args.sizes:
      raise errors.ConfigError(
        "--config needs '{size}' once, and --sizes with its values, as in "
        "--config 'experiments/x.py:size={size}' --sizes d2,d4,d6"
      )
    template = args.config
  if args.sizes:
    names = tuple(n.strip() for n in args.sizes.split(',') if n.strip())
  paths = [template.replace('{size}', name) for name in names]
  runs = [config.to_spec(config.load(path), path) for path in paths]
  pairs = sorted(
    zip(names, runs, strict=True),
    key=lambda pair: (pair[1].model.depth, pair[1].model.width),
  )
  return template, design.SizeList(
    tuple(n for n, _ in pairs), tuple(r for _, r in pairs)
  )


def _law(path: str | None) -> Law:
  if path is None:
    return design.assumed_law()
  file = pathlib.Path(path)
  file = file / 'fit.json' if file.is_dir() else file
  fit = sweepdir.read_json(file, dict)
  if fit is None:
    raise errors.RecordError(f'{file}: no such fit')
  law = laws.of_fit(fit)
  if not law.has_surface:
    raise errors.FitRefused(
      f'{file}: holds no surface L(N, D) to simulate; leave --assume out'
    )
  return law


def _text(
  made: design.Design,
  sizes: design.SizeList,
  law: Law,
  args: argparse.Namespace,
) -> str:
  params = ', '.join(f'{k} {v:.4g}' for k, v in law.params.items())
  guess = '' if args.assume else ' (a guess, not a measurement: see --assume)'
  lines = [
    f'{made.kind}: {len(made.cells)} runs, {made.flops:.3e} FLOPs of '
    f'{args.budget:.3e}',
    f'law in the simulation: {params}{guess}',
    '',
    'group  size      body    tokens  D/N    updates      FLOPs',
  ]
  for cell in made.cells:
    lines.append(
      f'{cell.group:5}  {cell.name:6}{notation.count(cell.n):>8}'
      f'{notation.count(cell.d):>10}{cell.d / cell.n:>5.0f}'
      f'{cell.steps:>11,}{cell.flops:>11.2e}'
    )
  lines += [
    '',
    f'Jacobian condition of L(N, D): {made.condition:.3g} (identifiable)',
    f'expected 95 % intervals, noise {100 * made.noise:g} % per run, '
    f'{args.studies} simulated studies:',
  ]
  for name, (true, low, high) in made.expected.items():
    if name.startswith('N*'):
      name = f'N* at {made.target:.1e}'
    lines.append(
      f'  {name:15} {notation.number(true, 3):>10}  '
      f'[{notation.number(low, 3)}, {notation.number(high, 3)}]'
    )
  if args.device:
    device = devices.get(args.device)
    hours = devices.device_hours(made.flops, device, 0.4)
    lines.append(f'{hours:,.0f} {device.name}-hours at 40 % of its peak')
  lines += [f'warning: {w}' for w in made.warnings]
  images = schedule.KNOWN_IMAGES.get(sizes.base.data.name)
  positions = flops.sequence_of(sizes.base.tokenizer).positions
  epochs = max(c.d for c in made.cells) / positions / (images or 1)
  if images and epochs > 4:
    lines.append(
      f'warning: the longest run sees its data {epochs:.0f} times; a surface '
      'fitted to tokens seen then holds for this amount of data only'
    )
  return '\n'.join(lines)


def _write(
  args: argparse.Namespace,
  made: design.Design,
  template: str,
  law: Law,
  argv: Sequence[str],
) -> list[pathlib.Path]:
  written = []
  if args.out:
    path = pathlib.Path(args.out)
    note = (
      f'{made.kind} sweep: {len(made.cells)} runs, {made.flops:.2e} FLOPs.\n\n'
      f'  varjax design {" ".join(argv)}\n\n'
      f'Jacobian condition of L(N, D): {made.condition:.3g}.\n'
    )
    _replace(path, sweep_file.source(made, template, note), len(made.cells))
    written.append(path)
  if args.json:
    path = pathlib.Path(args.json)
    values = {
      'schema': 1, 'kind': 'varjax.design', 'law': law.params,
      'assumed': args.assume is None, 'flops': made.flops,
      **{k: v for k, v in dataclasses.asdict(made).items() if k != 'kind'},
      'design': made.kind,
    }  # fmt: skip
    _replace(path, json.dumps(values, indent=1, allow_nan=False) + '\n')
    written.append(path)
  return written


def _replace(path: pathlib.Path, text: str, trials: int = 0) -> None:
  """Writes atomically; a sweep file must first expand to its trials."""
  if not path.parent.is_dir():
    raise errors.ConfigError(f'{path}: the folder {path.parent} is missing')
  partial = path.with_name(f'.{path.stem}.partial{path.suffix}')
  partial.write_text(text, encoding='utf-8')
  try:
    if trials and len(sweep.load(str(partial))) != trials:
      raise errors.ConfigError(f'{path}: does not list every run')
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

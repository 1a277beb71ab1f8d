"""Expected cost of the ImageNet experiments, from FLOPs and peak speeds.

  python benchmarks/cost_table.py            one JSON line per run
  python benchmarks/cost_table.py --table    as in the docstrings

Nothing is measured here: FLOPs are exact by docs/flops.md, and the device
runs at a share MFU of its nominal bf16 peak.
"""

import argparse
import dataclasses
import json
import pathlib

from varjax import config, devices, flops, schedule, sweep

MFU = 0.4
DEVICES = ('h100', 'v5p', 'v6e')
TRAIN_IMAGES = schedule.KNOWN_IMAGES['imagenet2012']

_ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Cost:
  """One run: its size, its work, and device-hours by device name."""

  run: str
  params: int
  epochs: float
  flops: float
  device_hours: dict[str, float]


def cost_of(experiment: str) -> Cost:
  """Cost of `PATH:ARG`, relative to the repository."""
  loaded = config.load(str(_ROOT / experiment))
  run = config.to_spec(loaded, experiment)
  if run.task == 'reconstruct':
    params = flops.tokenizer_parameter_counts(run.tokenizer).total
    per_image = flops.tokenizer_flops_per_image(run.tokenizer, 'train')
  else:
    params = flops.parameter_counts(run.model, run.tokenizer).total
    per_image = flops.train_flops_per_image(run.model, run.tokenizer).total
  total = float(per_image) * run.total.epochs * TRAIN_IMAGES
  hours = {
    name: devices.device_hours(total, devices.get(name), MFU)
    for name in DEVICES
  }
  return Cost(run.name, params, run.total.epochs, total, hours)


def ladder() -> list[Cost]:
  """Costs of the trials of sweeps/var_ladder.py, smallest first."""
  trials = sweep.load(str(_ROOT / 'sweeps' / 'var_ladder.py'))
  costs = [cost_of(trial['config']) for trial in trials]
  return sorted(costs, key=lambda cost: cost.params)


def table(costs: list[Cost]) -> str:
  """The text that stands in a docstring."""
  titles = '  '.join(f'{name + " h":>7}' for name in DEVICES)
  lines = [f'  {"run":13}  {"parameters":>13}  epochs  {"FLOPs":>7}  {titles}']
  for cost in costs:
    hours = '  '.join(f'{cost.device_hours[n]:>7,.0f}' for n in DEVICES)
    lines.append(
      f'  {cost.run:13}  {cost.params:>13,}  {cost.epochs:>6g}  '
      f'{cost.flops:>7.1e}  {hours}'
    )
  return '\n'.join(lines)


def total(costs: list[Cost]) -> str:
  """One line: what all runs of a table cost together."""
  hours = ', '.join(
    f'{sum(c.device_hours[n] for c in costs):,.0f} {n}-hours' for n in DEVICES
  )
  return f'  all: {sum(c.flops for c in costs):.1e} FLOPs, {hours}'


def documented() -> dict[str, str]:
  """File to the table that its docstring must hold."""
  at_256 = 'experiments/var_imagenet256.py'
  sizes = [cost_of(f'{at_256}:size=d{depth}') for depth in range(6, 31, 2)]
  rungs = ladder()
  at_512 = 'experiments/var_imagenet512.py'
  tokenizer = 'experiments/msvq_imagenet.py'
  single_scale = 'experiments/vq_imagenet.py'
  return {
    at_256: table(sizes),
    'sweeps/var_ladder.py': f'{table(rungs)}\n{total(rungs)}',
    at_512: table([cost_of(at_512)]),
    tokenizer: table(
      [cost_of(f'{tokenizer}:resolution={side}') for side in (256, 512)]
    ),
    single_scale: table(
      [cost_of(f'{single_scale}:downsample={side}') for side in (16, 8)]
    ),
  }


def main() -> None:
  """Prints the costs."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--table', action='store_true', help='as in docstrings')
  arguments = parser.parse_args()
  if arguments.table:
    for path, text in documented().items():
      print(f'{path}\n{text}\n')
    return
  costs = [
    *ladder(),
    cost_of('experiments/var_imagenet512.py'),
    cost_of('experiments/msvq_imagenet.py'),
    cost_of('experiments/vq_imagenet.py'),
  ]
  for cost in costs:
    print(json.dumps({**dataclasses.asdict(cost), 'mfu': MFU}))


if __name__ == '__main__':
  main()

"""What the TPU compiler says of VAR on pod slices, and what a run would cost.

  python benchmarks/pod_table.py --size d16 --slice v5e-4x4   one JSON line
  python benchmarks/pod_table.py                              one per pair
  python benchmarks/pod_table.py --table LINES                as in docs/pods.md

The pairs are those of experiments/var_pod.py. Compiling takes minutes each
and results are kept by content; it needs `pip install 'varjax[tpu]'` and no
TPU. Nothing is executed: peak memory and collectives are the compiler's,
times are a roofline's. A compute-optimal run trains for the images at which
more data and a larger model gain as much, by the law of --fit or the one
that `varjax design` assumes: no public L(N, D) of VAR exists.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import platform

from varjax import config, flops, schedule, topology
from varjax.aot import report
from varjax.aot.request import Request
from varjax.scaling import design
from varjax.scaling import law as laws
from varjax.tools import aot

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_EXPERIMENT = 'experiments/var_pod.py'
TRAIN_IMAGES = schedule.KNOWN_IMAGES['imagenet2012']


def main():
  """Prints JSON lines, or a table of lines."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size')
  parser.add_argument('--slice', help='as v5e-4x4')
  parser.add_argument('--fit', help='fit.json with an L(N, D) of your own')
  parser.add_argument('--table', metavar='LINES', help='file of JSON lines')
  args = parser.parse_args()
  if args.table:
    print(table(read(pathlib.Path(args.table))))
    return
  law = design.assumed_law()
  if args.fit:
    law = laws.of_fit(json.loads(pathlib.Path(args.fit).read_text()))
  for size, where in pairs():
    if args.size in (None, size) and args.slice in (None, where):
      print(json.dumps(row(size, where, law)), flush=True)


def pairs():
  """(size, slice) of the experiment."""
  module = config.load_module(str(_ROOT / _EXPERIMENT), 'get_config')
  return list(module.SLICES)


def row(size, where, law):
  """The facts and estimates of one pair, compiled if they are not known."""
  path = f'{_EXPERIMENT}:size={size},slice={where}'
  run = config.to_spec(config.load(str(_ROOT / path)), path)
  slice_ = topology.parse(where.replace('-', ':', 1))
  request = Request(run)
  found = report.describe(request, slice_, aot.ask(request, slice_))
  recipe = schedule.resolve_run(run, TRAIN_IMAGES).total * run.batch_size
  counts = flops.parameter_counts(run.model, run.tokenizer)
  positions = flops.sequence_of(run.tokenizer).positions
  optimal = optimal_tokens(law, counts.body) / positions
  values = report.to_json(found)
  return values | {
    'size': size,
    'devices': slice_.count,
    'images': {'recipe': recipe, 'optimal': optimal},
    'device_hours': {
      name: hours(found, slice_.count, images)
      for name, images in (('recipe', recipe), ('optimal', optimal))
    },
    'law': {'name': law.name, 'params': law.params},
    'machine': f'{platform.machine()}, {os.cpu_count()} cores',
    'date': datetime.date.today().isoformat(),
  }


def optimal_tokens(law, n):
  """D at which dL/dlnN = dL/dlnD on a surface (Hoffmann 2022, eq. 4)."""
  p = law.params
  gain = p['alpha'] * p['A'] * n ** -p['alpha']
  return (p['beta'] * p['B'] / gain) ** (1 / p['beta'])


def hours(found, devices, images):
  """Device-hours with perfect overlap and without any; None unless it fits."""
  if not found.compiled.fits:
    return None
  steps = math.ceil(images / found.batch_size)
  return [
    steps * seconds * devices / 3600
    for seconds in (found.roofline.step_s, found.roofline.serial_s)
  ]


def read(path):
  """JSON lines; of several for one pair the last counts."""
  rows = {}
  for line in path.read_text().splitlines():
    one = json.loads(line)
    rows[one['size'], one['topology']] = one
  return list(rows.values())


def table(rows):
  """Markdown of rows, in the order of the experiment."""
  order = [(s, w.replace('-', ':', 1)) for s, w in pairs()]
  rows = sorted(rows, key=lambda r: order.index((r['size'], r['topology'])))
  lines = [
    '| size | slice | mesh | batch | remat | peak GiB | of | model | '
    'step s | MFU | device-h, recipe | device-h, optimal |',
    '|---|---|---|---|---|---|---|---|---|---|---|---|',
  ]
  for one in rows:
    found, roof = one['compiled'], one['roofline']
    cells = [
      one['size'],
      one['topology'],
      ','.join(map(str, one['mesh'])),
      f'{one["batch_size"]}/{one["accumulate"]}',
      one['remat'],
      f'{found["used_bytes"] / 2**30:.2f}',
      f'{one["limit_bytes"] / 2**30:.2f}',
      f'{one["estimate_bytes"] / found["used_bytes"]:.2f}',
    ]
    if found['fits']:
      hours = one['device_hours']
      least = roof['mfu'] * roof['step_s'] / roof['serial_s']
      cells += [
        f'{roof["step_s"]:.2f}–{roof["serial_s"]:.2f}',
        f'{least:.2f}–{roof["mfu"]:.2f}',
        *(_range(hours[name]) for name in ('recipe', 'optimal')),
      ]
    else:
      cells += ['does not fit', '', '', '']
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def _range(pair):
  return f'{pair[0]:,.0f}–{pair[1]:,.0f}'


if __name__ == '__main__':
  main()

"""`varjax status D`: where every trial of a sweep stands. Writes nothing."""

from __future__ import annotations

import pathlib
import time

from varjax.launch import collect, lock, manifest, table
from varjax.tools import arguments


def main(argv: list[str]) -> int:
  """Prints the table once, or again and again with --watch.

  Args:
    argv: arguments behind `varjax status`.

  Returns:
    0, or 1 when a trial has failed.

  Raises:
    LaunchError: the folder is not one of a sweep.
    RecordError: its records cannot be read.
  """
  parser = arguments.parser(
    'status', 'Show where every trial of a sweep stands; writes nothing.'
  )
  parser.add_argument('workdir', help='the --workdir of a sweep')
  parser.add_argument(
    '--watch',
    nargs='?',
    type=float,
    const=2.0,
    metavar='SECONDS',
    help='repeat until no launcher is at work (every 2 seconds)',
  )
  args = parser.parse_args(argv)
  sweep_dir = pathlib.Path(args.workdir)
  while True:
    rows = _print(sweep_dir)
    if args.watch is None or not lock.is_held(sweep_dir):
      return int(any(row.status == 'failed' for row in rows))
    time.sleep(args.watch)
    print()


def _print(sweep_dir: pathlib.Path) -> list[table.Row]:
  name, trials, earlier = manifest.read(sweep_dir)
  found = collect.peek(sweep_dir)
  rows = table.rows(trials, found, manifest.running(sweep_dir))
  state = 'running' if lock.is_held(sweep_dir) else 'not running'
  print(f'sweep {name} ({state}), {table.summary(rows)}')
  print(table.text(rows), flush=True)
  ids = {r.run_id for r in found if r.status == 'complete'}
  kept = sum(trial.run_id in ids for trial in earlier)
  if kept:
    print(f'and {kept} complete records of earlier versions of the sweep')
  return rows

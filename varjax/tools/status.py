"""`varjax status D`: where every trial of a sweep stands.

Writes nothing but the page that --html asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
import pathlib
import time
from typing import Any

from varjax.launch import base, collect, lock, manifest, page, table
from varjax.tools import arguments

_PAGE = 'status.html'
_RELOAD_S = 10.0


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
    'status', 'Show where every trial of a sweep stands.'
  )
  parser.add_argument('workdir', help='the --workdir of a sweep')
  parser.add_argument(
    '--watch',
    nargs='?',
    type=float,
    const=2.0,
    metavar='SECONDS',
    help='repeat until no launcher is at work and no trial moves (every 2 '
    'seconds)',
  )
  parser.add_argument(
    '--html',
    nargs='?',
    const='',
    metavar='FILE',
    help=f'also write a page that reloads itself, to WORKDIR/{_PAGE} or '
    'FILE; with --watch it is kept up to date',
  )
  args = parser.parse_args(argv)
  sweep_dir = pathlib.Path(args.workdir)
  target = None
  if args.html is not None:
    target = pathlib.Path(args.html) if args.html else sweep_dir / _PAGE
  before: dict[str, Any] = {}
  while True:
    name, trials, earlier = manifest.read(sweep_dir)
    now = {t.run_id: manifest.read_json(t.progress) for t in trials}
    running = {**_moving(now, before), **manifest.running(sweep_dir)}
    found = collect.peek(sweep_dir)
    rows = table.rows(trials, found, running)
    at_work = lock.is_held(sweep_dir)
    _print(name, rows, at_work)
    _print_earlier(earlier, {r.run_id for r in found if r.status == 'complete'})
    last = args.watch is None or not (at_work or running or not before)
    if target is not None:
      # A page that nobody will write again need not reload.
      every_s = 0.0 if last and not at_work else args.watch or _RELOAD_S
      text = page.html(name, rows, running=at_work, refresh_s=every_s)
      _write(target, text)
    if last:
      return int(any(row.status == 'failed' for row in rows))
    before = now
    time.sleep(args.watch)
    print()


def _moving(
  now: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """Trials that move without a launcher of ours, by run id.

  Such are written commands that run elsewhere. Only what changes between two
  looks tells: times that another machine wrote may be of a wrong clock.
  """
  return {
    run_id: {'where': 'elsewhere'}
    for run_id, progress in now.items()
    if progress is not None and run_id in before and progress != before[run_id]
  }


def _print(name: str, rows: list[table.Row], at_work: bool) -> None:
  state = 'running' if at_work else 'not running'
  print(f'sweep {name} ({state}), {table.summary(rows)}')
  print(table.text(rows), flush=True)


def _print_earlier(earlier: list[base.Trial], complete: set[str]) -> None:
  kept = sum(trial.run_id in complete for trial in earlier)
  if kept:
    print(f'and {kept} complete records of earlier versions of the sweep')


def _write(path: pathlib.Path, text: str) -> None:
  """Whole or not at all: a browser may be reading it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.name}.partial')
  partial.write_text(text)
  os.replace(partial, path)

"""Measures every row of the table of targets on this machine's device.

  python benchmarks/targets.py --out results.jsonl --budget 25
  python benchmarks/targets.py --out results.jsonl --page docs/performance.md
  python benchmarks/targets.py --dry_run        what would run, in what order
  python benchmarks/targets.py --quick --out x.jsonl    tiny, on any machine

Each case is a process of its own: peaks of memory are its own, and one that
fails takes no other with it. Its lines are appended to --out when it is done,
so that the same command after an interruption, or with more minutes, runs
what is missing; --again measures what is there already once more. Cases are
ordered by what they decide: the tiles of attention first, then training,
sampling, tokenizing and compiling. At the end it prints report.py's table,
and with --page puts it between the marks of a document.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import marks
import report

_HERE = pathlib.Path(__file__).resolve().parent
_MARK = 'targets'


@dataclasses.dataclass(frozen=True)
class Case:
  """One process.

  Attributes:
    script: of this folder, without `.py`.
    options: its arguments.
    minutes: after which it is stopped.
    needs: packages beyond those of a bare accelerator machine.
    host: whether it measures the processor and not the accelerator.
  """

  script: str
  options: tuple[str, ...]
  minutes: float = 4.0
  needs: tuple[str, ...] = ()
  host: bool = False

  @property
  def words(self) -> str:
    """As its lines have it in `command`."""
    return ' '.join((f'benchmarks/{self.script}.py', *self.options))


def cases(quick: bool = False) -> list[Case]:
  """Every case, those that decide most first."""
  if quick:
    speed = (
      'attention', 'step_time', 'decode', 'tokenize_images', 'compile_time',
      'filters', 'few_rows', 'elementwise', 'loss_curves',
    )  # fmt: skip
    return [
      *(Case(name, ('--quick',)) for name in speed),
      Case('feed', ('--quick',), needs=('grain',), host=True),
      Case('fit', ('--quick',), needs=('pandas', 'scipy'), host=True),
    ]
  train = [
    Case('step_time', ('--sizes', size, '--batch', batch, '--remat', remat))
    for size, batch, remat in (
      ('d16', '64', 'none,light,dots'),
      ('d30', '32', 'light,dots,slim'),
      ('d24', '32', 'none,light'),
      ('d20', '64', 'none,light'),
      ('d30', '16', 'light'),
    )
  ]
  variants = [
    Case('step_time', ('--sizes', 'd16', '--batch', '64', *more))
    for more in (
      ('--remat', 'light', '--attention', 'cudnn'),
      ('--remat', 'light', '--loss_chunks', '8'),
      ('--remat', 'light', '--unroll', '1'),
      ('--remat', 'light', '--products', 'fp8'),
    )
  ]
  sample = [
    Case('decode', ('--sizes', size, '--batch', batch))
    for batch in ('1', '64', '8', '256')
    for size in ('d16', 'd30')
  ]
  cheaper = [
    Case('decode', ('--batch', '1', '--weights', 'int8')),
    Case('decode', ('--batch', '64', '--guided', '0,8')),
  ]
  # The default tiles of each kernel, and others that spill no registers.
  tiles = (
    '128x64x4x3/128x32x4x3/64x64x4x3',
    '64x64x4x3/64x64x4x3/64x64x4x2',
    '128x64x8x3/128x32x4x2/64x128x8x2',
    '128x64x4x2/128x32x4x4/64x64x4x4',
  )
  return [
    Case('attention', ('--attention', 'flash,cudnn')),
    Case('attention', ('--cosine', '--attention', 'flash,cudnn')),
    *train[:2],
    *sample[:4],
    Case('tokenize_images', ('--batch', '64')),
    *train[2:],
    Case('attention', ('--attention', 'flash', '--tiles', ','.join(tiles))),
    Case(
      'compile_time',
      ('--sizes', 'd30', '--batch', '32', '--unroll', '1,all'),
    ),
    *sample[4:],
    *cheaper,
    Case('filters', ()),
    Case('few_rows', ()),
    Case('elementwise', ()),
    *variants,
    Case('loss_curves', (), minutes=8.0),
    Case('feed', ('--batch', '768'), needs=('grain',), host=True),
    Case('fit', (), needs=('pandas', 'scipy'), host=True),
  ]


def main(argv: list[str] | None = None) -> int:
  """Runs what is missing; 1 if a case failed or time ran out."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--out', type=pathlib.Path, help='file of JSON lines')
  parser.add_argument(
    '--budget', type=float, default=120.0, help='minutes in all'
  )
  parser.add_argument('--only', default='', help='scripts, as decode,attention')
  parser.add_argument('--again', action='store_true', help='measure anew')
  parser.add_argument('--page', type=pathlib.Path, help='document to fill')
  parser.add_argument('--dry_run', action='store_true', help='list the cases')
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  given = parser.parse_args(argv)
  chosen = cases(given.quick)
  if given.only:
    names = given.only.split(',')
    allowed = sorted({case.script for case in chosen})
    for name in names:
      if name not in allowed:
        parser.error(f'--only {name}: must be among {", ".join(allowed)}')
    chosen = [case for case in chosen if case.script in names]
  if given.dry_run:
    for case in chosen:
      print(f'python {case.words}    at most {case.minutes:g} minutes')
    return 0
  if given.out is None:
    parser.error('--out FILE is required: where the JSON lines go')
  failed = run(chosen, given.out, 60 * given.budget, again=given.again)
  table = report.report(
    json.loads((_HERE / 'baselines.json').read_text()),
    report.read([given.out] if given.out.is_file() else []),
  )
  print(table)
  if given.page:
    marks.write_between(given.page, _MARK, table + '\n')
  for words, reason in failed.items():
    print(f'{words}: {reason}', file=sys.stderr)
  return 1 if failed else 0


def run(
  chosen: list[Case], out: pathlib.Path, budget_s: float, *, again: bool = False
) -> dict[str, str]:
  """Measures cases whose lines `out` does not have, and appends them.

  Args:
    chosen: in order.
    out: JSON lines; those of earlier calls are kept.
    budget_s: a case is not begun after this many seconds, and stopped then.
    again: measure cases that `out` has, too.

  Returns:
    Why cases have no lines, by their words; empty if all have.
  """
  done = collections.Counter(
    row.get('command') for row in (report.read([out]) if out.is_file() else [])
  )
  failed: dict[str, str] = {}
  end = time.monotonic() + budget_s
  for number, case in enumerate(chosen, 1):
    print(f'[{number}/{len(chosen)}] {case.words}', flush=True)
    if done[case.words] and not again:
      print('  measured already', flush=True)
      continue
    absent = [n for n in case.needs if importlib.util.find_spec(n) is None]
    left = end - time.monotonic()
    if absent:
      failed[case.words] = f'needs {", ".join(absent)}, which is not installed'
    elif left < 1:
      failed[case.words] = 'no time was left; run the same command again'
    else:
      lines, reason = _measure(case, min(left, 60 * case.minutes))
      _append(out, lines)
      if reason:
        failed[case.words] = reason
    if case.words in failed:
      print(f'  {failed[case.words]}', flush=True)
  return failed


def _measure(case: Case, limit_s: float) -> tuple[list[dict[str, Any]], str]:
  """Its lines, and why it failed or ''."""
  environment = dict(os.environ)
  # The script's folder is on the path of its own accord, the package is not.
  paths = [str(_HERE.parent), environment.get('PYTHONPATH', '')]
  environment['PYTHONPATH'] = os.pathsep.join(p for p in paths if p)
  if case.host:
    environment['JAX_PLATFORMS'] = 'cpu'
  # d30 with 32 images needs more than the share that JAX takes by default.
  environment.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.95')
  try:
    done = subprocess.run(
      [sys.executable, f'benchmarks/{case.script}.py', *case.options],
      cwd=_HERE.parent, env=environment, timeout=limit_s,
      capture_output=True, text=True, check=False,
    )  # fmt: skip
    text, reason = done.stdout, ''
    if done.returncode:
      last = done.stderr.strip().splitlines() or ['no message']
      reason = f'exit status {done.returncode}: {last[-1][:300]}'
  except subprocess.TimeoutExpired as late:
    text = (late.stdout or b'').decode()  # Bytes, whatever `text` says.
    reason = f'stopped after {limit_s:.0f} s'
  rows = []
  for line in text.splitlines():
    if line.startswith('{'):
      print(f'  {line}', flush=True)
      rows.append(json.loads(line))
  if not rows and not reason:
    reason = 'it printed no line'
  return rows, reason


def _append(out: pathlib.Path, rows: list[dict[str, Any]]) -> None:
  out.parent.mkdir(parents=True, exist_ok=True)
  with out.open('a') as file:
    for row in rows:
      file.write(json.dumps(row) + '\n')
    file.flush()
    os.fsync(file.fileno())


if __name__ == '__main__':
  sys.exit(main())

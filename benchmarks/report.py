"""JSON lines of the speed benchmarks, as a table against the baselines.

  python benchmarks/report.py benchmarks/results/*.jsonl

For every row of baselines.json the best measured case whose name begins as
the row's does, on the row's device or else that of all baselines; other
measurements are listed below the table and never compared with it. What
nobody has measured is said to be missing.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

_BASELINES = pathlib.Path(__file__).with_name('baselines.json')
_LESS_IS_BETTER = ('ms', 'compile_s', 'seconds')


def main(argv: list[str] | None = None) -> None:
  """Prints the table as Markdown."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('files', nargs='*', type=pathlib.Path)
  given = parser.parse_args(argv)
  print(report(json.loads(_BASELINES.read_text()), read(given.files)))


def read(files: list[pathlib.Path]) -> list[dict[str, Any]]:
  """The JSON lines of some files, in order.

  Raises:
    SystemExit: a line is not one that a benchmark printed.
  """
  rows = []
  for file in files:
    for number, text in enumerate(file.read_text().splitlines(), 1):
      try:
        row = json.loads(text)
        rows.append({**row, 'benchmark': row['benchmark'], 'case': row['case']})
      except (ValueError, KeyError, TypeError):
        raise SystemExit(
          f'{file}:{number}: not a line that a benchmark printed'
        ) from None
  return rows


def report(baselines: dict[str, Any], rows: list[dict[str, Any]]) -> str:
  """The table of `baselines`, then what was measured elsewhere."""
  used = []
  lines = [
    f'Baselines: {baselines["source"]}.',
    '',
    '| benchmark | case | metric | before us | varjax | target | ratio |',
    '|---|---|---|---|---|---|---|',
  ]
  for row in baselines['rows']:
    device = row.get('device', baselines['device'])
    here = [r for r in rows if r.get('device') == device]
    found = best(row, here)
    used += [r for r in here if _covers(row, r)]
    value = None if found is None else found[row['metric']]
    case = row['case'].rstrip('/') if found is None else found['case']
    official = _number(row['official'])
    if row['how']:
      official = f'{official} ({row["how"]})'
    lines.append(
      f'| {row["benchmark"]} | {case} | {row["metric"]} | {official} | '
      f'{"not measured" if value is None else _number(value)} | '
      f'{_number(row["target"])} | {_ratio(row, value)} |'
    )
  others = [r for r in rows if not any(r is one for one in used)]
  if others:
    lines += ['', 'Other cases and devices, without a baseline:', '']
    lines += ['| device | benchmark | case | ms | images/s | date |',
              '|---|---|---|---|---|---|']  # fmt: skip
    lines += [
      f'| {r.get("device")} | {r["benchmark"]} | {r["case"]} | '
      f'{_number(r.get("ms"))} | {_number(r.get("images_per_s"))} | '
      f'{r.get("date")} |'
      for r in others
    ]
  return '\n'.join(lines)


def best(
  row: dict[str, Any], measured: list[dict[str, Any]]
) -> dict[str, Any] | None:
  """The best case of one row of the table, None where there is none."""
  metric = row['metric']
  cases = [r for r in measured if _covers(row, r) and r.get(metric) is not None]
  sign = -1 if metric in _LESS_IS_BETTER else 1
  return max(cases, key=lambda r: sign * r[metric], default=None)


def _covers(row: dict[str, Any], one: dict[str, Any]) -> bool:
  """Whether a measurement is of a row's benchmark and case."""
  same = one['benchmark'] == row['benchmark']
  return same and one['case'].startswith(row['case'])


def _ratio(row: dict[str, Any], value: float | None) -> str:
  """How many times better than the official code; '' where unknown."""
  if value is None or not row['official']:
    return ''
  ratio = value / row['official']
  if row['metric'] in _LESS_IS_BETTER:
    ratio = 1 / ratio
  return f'{ratio:.2f}×'


def _number(value: float | None) -> str:
  return (
    '–'
    if value is None
    else f'{value:,.4g}'
    if value < 1e3
    else f'{value:,.0f}'
  )


if __name__ == '__main__':
  main()

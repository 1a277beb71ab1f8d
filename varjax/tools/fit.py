"""`varjax fit RECORDS|CSV --out DIR`: fits scaling laws, writes fit.json.

Exit code 0, or 3 when the data cannot support the fit: the last line then
says why and what to run next.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import sys
from typing import Any

from varjax import errors, records
from varjax.scaling import result, sweep_analysis, table, table_analysis
from varjax.scaling.bootstrap import BACKENDS
from varjax.scaling.options import FORMS, METHODS, Options
from varjax.scaling.table import Conventions
from varjax.tools import arguments

_BASE = 'E=..,A=..,B=..,alpha=..,beta=..'
_DESCRIPTION = """
Fits scaling laws to a table of runs and writes DIR/fit.json.

RECORDS is a records.jsonl (or .parquet, or the folder of one) of a sweep:
L and Err against N, with and without a floor, per scale, the frontier L(C)
from curves.jsonl beside it, and L(N, D) where D varies; the runs of role
holdout, or the largest size, are predicted and not fitted.

Any other CSV or Parquet is fitted with one form; name its columns:
  varjax fit runs.csv --n params --d tokens --loss loss --out out/
  varjax fit runs.csv --n params --loss loss --form power_floor --out out/
"""


def parser() -> argparse.ArgumentParser:
  """The command line."""
  made = arguments.parser('fit', _DESCRIPTION)
  made.add_argument(
    'table', help='records (.jsonl, .parquet, folder) or a CSV/Parquet'
  )
  made.add_argument(
    '--out', required=True, metavar='DIR', help='where fit.json goes'
  )
  _add_table(made.add_argument_group('which table'))
  _add_conventions(made.add_argument_group('what N, D and C of records are'))
  _add_form(made.add_argument_group('what is fitted'))
  _add_method(made.add_argument_group('how it is fitted'))
  return made


def _add_table(group: argparse._ArgumentGroup) -> None:
  """What is read, and what its columns are."""
  add = group.add_argument
  add('--n', metavar='COLUMN', help='parameters')
  add('--d', metavar='COLUMN', help='training tokens')
  add('--c', metavar='COLUMN', help='training FLOPs')
  add('--u', metavar='COLUMN', help='unique tokens')
  add(
    '--loss', metavar='COLUMN',
    help='the loss (CSV), or for records L_mean, L_last, Err_mean, Err_last',
  )  # fmt: skip
  add('--name', metavar='COLUMN', help='name of a run')
  add('--run', metavar='COLUMN', help='run of a row, where rows are not runs')
  add(
    '--units', metavar='KEY=SIZE',
    help='size of one unit of the columns n, d, c, u of a CSV, as '
    'n=1e6,d=1e9 for millions and billions',
  )  # fmt: skip
  add('--loss_unit', default='', help="of a CSV's loss, as 'nats per token'")
  add(
    '--filter', action='append', default=[], metavar='COLUMN=VALUE',
    help='keep rows where the column equals the value (repeatable)',
  )  # fmt: skip
  add('--curves', metavar='FILE', help='curves.jsonl (beside the records)')


def _add_conventions(group: argparse._ArgumentGroup) -> None:
  """Conventions, for records of varjax."""
  add = group.add_argument
  add(
    '--n_convention', default='body', choices=list(table.N_CONVENTIONS),
    help='what N counts in records: '
    + '; '.join(f'{k}: {v}' for k, v in table.N_CONVENTIONS.items()),
  )  # fmt: skip
  add(
    '--d_convention', default='seen', choices=list(table.D_CONVENTIONS),
    help='what D counts in records',
  )  # fmt: skip
  add(
    '--flop_convention', default='total', choices=list(table.C_CONVENTIONS),
    help='what C is in records',
  )  # fmt: skip
  add(
    '--k', type=float, default=6.0, help='k of C = k N D, where C is not given'
  )


def _add_form(group: argparse._ArgumentGroup) -> None:
  """The form, and to which rows."""
  add = group.add_argument
  add(
    '--form', help='one of ' + ', '.join(FORMS) + ', or power_pinned, '
    'chinchilla_pinned with --floor (CSV: chinchilla)',
  )  # fmt: skip
  add(
    '--x', choices=('n', 'd', 'c'),
    help='input of a 1-D form; of a table the column that is named, or n',
  )  # fmt: skip
  add(
    '--floor', metavar='E',
    help='hold E at this value, beside the fitted floor; for records also '
    'one per metric, as L_mean=5,L_last=4.5',
  )  # fmt: skip
  add(
    '--base', metavar='E=..,A=..,B=..,alpha=..,beta=..',
    help='surface of unrepeated data, for --form repeat',
  )  # fmt: skip
  add(
    '--drop_highest', type=int, default=0, metavar='K',
    help='drop the K highest losses',
  )  # fmt: skip
  add(
    '--hold_out', type=int, metavar='K',
    help='hold out the K largest sizes when no run has the role holdout '
    '(records: 1, CSV: 0)',
  )  # fmt: skip


def _add_method(group: argparse._ArgumentGroup) -> None:
  """The optimiser, refits and checks."""
  add = group.add_argument
  add(
    '--method', default='auto', choices=METHODS,
    help='what is minimised: huber of log residuals (surfaces by default), '
    'log or linear least squares, vpnls; isoflop; or envelope, the lower '
    'edge of training curves, of rows with --run',
  )  # fmt: skip
  add('--delta', type=float, default=1e-3, help='of the Huber loss')
  add('--starts', type=int, default=200, help='of the optimiser for each fit')
  add('--bootstrap', type=int, default=1000, help='refits; 0 for none')
  add(
    '--bootstrap_backend', default='numpy', choices=BACKENDS,
    help='where refits run: numpy, or jax (vmapped, float64; faster from '
    'some thousands of refits on)',
  )  # fmt: skip
  add('--seed', type=int, default=0, help='of starts and bootstrap')
  add(
    '--sensitivity', action='store_true',
    help='vary delta, outliers and objective, and profile the exponents',
  )  # fmt: skip
  add('--no_backtest', action='store_true', help='skip leave-largest-out')
  add(
    '--force', action='store_true',
    help='fit in spite of a refusal; it stays in the result',
  )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  args = parser().parse_args(argv)
  try:
    found = run(args)
  except errors.VarjaxError as error:
    kind = type(error).__name__
    if isinstance(error, errors.FitRefused):
      print(f'refused ({kind}): {error}', file=sys.stderr)
    else:
      print(f'error: {error}', file=sys.stderr)
    return error.exit_code
  path = result.write(found, args.out)
  print(summary(found))
  print(f'wrote {path}')
  return 0


def run(args: argparse.Namespace) -> dict[str, Any]:
  """The result for parsed arguments.

  Raises:
    VarjaxError: a bad argument or file; FitRefused: see identify.py.
  """
  given = table.read(args.table)
  options = options_of(args)
  columns = {
    'n': args.n, 'd': args.d, 'c': args.c, 'u': args.u, 'y': args.loss,
    'name': args.name, 'run': args.run,
  }  # fmt: skip
  columns = {k: v for k, v in columns.items() if v}
  own = {'n', 'd', 'c', 'u', 'run'} & set(columns)
  curves_path = None
  if table.is_records(given) and not own:
    curves_path = _curves_path(args)
    curves = records.load_curves(curves_path) if curves_path else None
    found = sweep_analysis.analyse_records(given, curves, options=options)
  else:
    found = table_analysis.analyse_table(given, columns, args.form, options)
  found['source'] = {
    'records': str(args.table),
    'curves': str(curves_path) if curves_path else None,
  }
  return found


def options_of(args: argparse.Namespace) -> Options:
  """Options from the command line.

  Raises:
    ConfigError: a filter that is not COLUMN=VALUE, or a bad value.
  """
  filters = {}
  for text in args.filter:
    column, sign, value = text.partition('=')
    if not sign or not column:
      raise errors.ConfigError(f'--filter {text!r}: write COLUMN=VALUE')
    filters[column] = value
  floor, floors = _floors(args.floor)
  metric = args.loss or 'L_mean'
  x = args.x or ('n' if args.n or not (args.d or args.c) else None)
  # The primary fit is pinned where its own metric has a floor.
  floor = floors.get(metric, floor)
  return Options(
    form=args.form, method=args.method, x=x or ('d' if args.d else 'c'),
    delta=args.delta, starts=args.starts, bootstrap=args.bootstrap,
    bootstrap_backend=args.bootstrap_backend, seed=args.seed,
    conventions=Conventions(
      args.n_convention, args.d_convention, args.flop_convention, args.k
    ),
    drop_highest=args.drop_highest, floor=floor, floors=floors,
    filters=filters, loss_unit=args.loss_unit,
    units=_pairs('--units', args.units, 'n=1e6,d=1e9', tuple('ndcu')),
    metric=metric, hold_out=args.hold_out,
    backtest=not args.no_backtest, sensitivity=args.sensitivity,
    base=args.base and _pairs('--base', args.base, _BASE), force=args.force,
  )  # fmt: skip


def _pairs(
  option: str, text: str | None, example: str, allowed: Sequence[str] = ()
) -> dict[str, float]:
  """`a=1,b=2` as a dictionary; nothing as an empty one.

  Raises:
    ConfigError: another text, or a name that is not allowed.
  """
  if text is None:
    return {}
  try:
    parts = [part.split('=') for part in text.split(',')]
    found = {name.strip(): float(value) for name, value in parts}
  except ValueError as error:
    raise errors.ConfigError(f'{option} {text!r}: write {example}') from error
  for name in found:
    if allowed and name not in allowed:
      raise errors.ConfigError(
        f'{option}: {name!r} is unknown; use {", ".join(allowed)}'
      )
  return found


def _floors(text: str | None) -> tuple[float | None, dict[str, float]]:
  """One floor, or one per metric of records."""
  if text is None or '=' in text:
    return None, _pairs(
      '--floor', text, 'a number, or L_mean=5,L_last=4.5', list(table.METRICS)
    )
  try:
    return float(text), {}
  except ValueError as error:
    raise errors.ConfigError(
      f'--floor {text!r}: write a number, or L_mean=5,L_last=4.5'
    ) from error


def _curves_path(args: argparse.Namespace) -> pathlib.Path | None:
  if args.curves:
    return pathlib.Path(args.curves)
  path = pathlib.Path(args.table)
  beside = (path if path.is_dir() else path.parent) / 'curves.jsonl'
  return beside if beside.is_file() else None


def summary(found: dict[str, Any]) -> str:
  """The result as a readable table."""
  lines = []
  for entry in found['fits']:
    lines.append(f'{entry["name"]}: {entry["formula"]}')
    for name, value in {**entry['params'], **entry['derived']}.items():
      if value is None:
        continue
      line = f'  {name:<10}{value:>14.6g}'
      bounds = entry['intervals'].get(name)
      if bounds:
        line += f'   95% [{bounds["lo"]:.4g}, {bounds["hi"]:.4g}]'
      elif name in entry['pinned']:
        line += '   fixed'
      lines.append(line)
    lines.append(
      f'  objective {entry["objective"]:.6g} ({entry["objective_kind"]}), '
      f'{entry["starts_agreeing"]}/{entry["starts"]} starts agree'
    )
    for row in entry['holdout']:
      lines.append(_holdout_line(row))
    for tested in entry['backtests']:
      lines.append(
        f'  backtest ({tested["kind"]}): mean error '
        f'{100 * tested["mean_abs_error"]:.2f} %, coverage '
        f'{_percent(tested["coverage"])}'
      )
    lines += [f'  warning: {text}' for text in entry['warnings']]
    lines += [
      f'  REFUSED, forced: {r["type"]}: {r["reason"]}'
      for r in entry['refusals']
    ]
  for row in found['tables']['refused_fits']:
    lines.append(f'{row["name"]}: not fitted: {row["reason"]}')
  if len(found['agreement']) > 1:
    lines.append('exponent a of N*(C) by method:')
    lines += [_agreement_line(row) for row in found['agreement']]
  return '\n'.join(lines)


def _agreement_line(row: dict[str, Any]) -> str:
  value = '-' if row['a'] is None else f'{row["a"]:.4f}'
  bounds = ''
  if row['lo'] is not None:
    bounds = f' 95% [{row["lo"]:.3f}, {row["hi"]:.3f}]'
  return f'  {row["method"]:<24}{value:>7}{bounds}  {row["note"]}'


def _holdout_line(row: dict[str, Any]) -> str:
  text = (
    f'  held out {row["name"]} ({row["extrapolation"]:.1f}x): measured '
    f'{row["measured"]:.5g}, predicted {row["predicted"]:.5g}'
  )
  if row['lo'] is None:
    return text
  inside = 'inside' if row['inside'] else 'OUTSIDE'
  return f'{text} [{row["lo"]:.5g}, {row["hi"]:.5g}] {inside}'


def _percent(value: float | None) -> str:
  return 'unknown' if value is None else f'{100 * value:.0f} %'


if __name__ == '__main__':
  sys.exit(main())

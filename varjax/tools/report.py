"""`varjax report DIR`: one page that shows what a sweep found.

Reads records.jsonl and, where they exist, curves.jsonl, fit.json,
commands.json, *.png and tokenizer/*.png of the directory; writes
report.html, report.md and figures/ into it.
"""

from __future__ import annotations

from collections.abc import Sequence
import sys

from varjax.scaling import report
from varjax.tools import arguments


def main(argv: Sequence[str]) -> int:
  """Writes the report and prints where it is.

  Args:
    argv: arguments behind `varjax report`.

  Raises:
    RecordError: the directory or its records are missing or unreadable.
  """
  parser = arguments.parser('report', __doc__ or '')
  parser.add_argument('directory', metavar='DIR', help='a sweep directory')
  parser.add_argument(
    '--no_references', '--no-references', action='store_true',
    help='draw no published exponents beside the fits',
  )  # fmt: skip
  args = parser.parse_args(argv)
  written = report.write(args.directory, not args.no_references)
  figures = sum(path.suffix == '.svg' for path in written)
  print(f'{written[0]}\n{written[1]}\n{figures} figures with their data')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))

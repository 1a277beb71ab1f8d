"""Seconds of `make demo` on a fresh clone, environment included.

  python benchmarks/demo.py                     this checkout's last commit
  python benchmarks/demo.py --keep FOLDER       and keep the clone with its runs

Clones what is committed, builds the environment from the lock file and runs
the demo, as a newcomer would; packages come from the network or pip's cache,
so that a first run on a machine is slower. One JSON line: `seconds` on the
wall, `cpu_s` of all processes, `demo_s` of the demo without environment.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

import stopwatch

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def main(argv: list[str] | None = None) -> None:
  """Runs it once."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--keep', type=pathlib.Path, help='new folder')
  given = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    clone = given.keep or pathlib.Path(folder) / 'clone'
    _run('git', 'clone', '--quiet', str(_ROOT), str(clone))
    commit = _run('git', '-C', str(clone), 'rev-parse', '--short', 'HEAD')
    before, start = _cpu_s(), time.monotonic()
    text = _run('make', '-C', str(clone), 'demo')
    seconds, cpu_s = time.monotonic() - start, _cpu_s() - before
  said = re.search(r'demo finished in ([\d.]+) min', text)
  stopwatch.line(
    'demo', 'make', seconds=round(seconds, 1), cpu_s=round(cpu_s, 1),
    demo_s=round(60 * float(said[1])) if said else None,
    commit=commit.strip(),
  )  # fmt: skip


def _run(*command: str) -> str:
  """What it printed; its messages go to ours."""
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
  if done.returncode:
    sys.exit(f'{" ".join(command)}: exit status {done.returncode}')
  return done.stdout


def _cpu_s() -> float:
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


if __name__ == '__main__':
  main()

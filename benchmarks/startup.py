"""Seconds from a command to its first update, with a cold and a warm cache.

  python benchmarks/startup.py                     the tokenizer of the demo
  python benchmarks/startup.py --config FILE.py:size=d4 --config.KEY=VALUE
  python benchmarks/startup.py --quick             tiny, for a CPU

Starts `varjax train` as a person would, waits until the loss of the first
update is in its log, and stops it. The first start finds an empty
compilation cache (`cold`), the next ones that of the first (`warm`). One
JSON line per start: `first_step_s` in all; of it `setup_s` for inputs, the
initial state and shardings, `compile_s` for the first call of the update,
and `python_s` for the rest, which is interpreter and imports.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time

from varjax import metrics

_TIMEOUT_S = 1800
_QUICK = (
  '--config.tokenizer.ch=8', '--config.tokenizer.norm_groups=4',
  '--config.tokenizer.vocab=32', '--config.batch_size=8',
)  # fmt: skip


def main(argv: list[str] | None = None) -> list[dict]:
  """Measures every start; returns the rows that were printed."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  root = pathlib.Path(__file__).resolve().parents[1]
  parser.add_argument(
    '--config', default=str(root / 'experiments' / 'emoji_tokenizer.py')
  )
  parser.add_argument('--warm', type=int, default=3, help='starts when warm')
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  given, overrides = parser.parse_known_args(argv)
  if given.quick:
    overrides, given.warm = [*_QUICK, *overrides], 1
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    for number in range(1 + given.warm):
      facts = _start(
        ['--config', given.config, *overrides], place, f'run{number}'
      )
      rows.append(
        {
          'benchmark': 'startup',
          'case': 'warm' if number else 'cold',
          **facts,
          'machine': platform.machine(),
          'cores': os.cpu_count(),
          'date': datetime.date.today().isoformat(),
          'command': ' '.join(sys.argv if argv is None else argv),
        }
      )
      print(json.dumps(rows[-1]), flush=True)
  return rows


def _start(options: list[str], place: pathlib.Path, name: str) -> dict:
  """One start, stopped after its first update."""
  workdir, cache = place / name, place / 'cache'
  environment = {**os.environ, 'VARJAX_CACHE': str(cache)}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  began = time.monotonic()
  with open(place / f'{name}.txt', 'w') as log:
    process = subprocess.Popen(
      [
        sys.executable, '-m', 'varjax', 'train', *options, '--quiet',
        '--workdir', str(workdir), '--config.log.steps=1',
        '--config.total.epochs=0', '--config.total.images=0',
        '--config.total.steps=100000',
      ],
      env=environment, stdout=log, stderr=log,
    )  # fmt: skip
  try:
    while not metrics.read(workdir):
      if process.poll() is not None or time.monotonic() > began + _TIMEOUT_S:
        raise SystemExit((place / f'{name}.txt').read_text()[-2000:])
      time.sleep(0.01)
    first = time.monotonic() - began
    process.send_signal(signal.SIGTERM)
    process.wait(_TIMEOUT_S)
  finally:
    process.kill()
    process.wait()
  seconds = _seconds(workdir)
  return {
    'first_step_s': round(first, 2),
    'setup_s': round(seconds['setup'], 2),
    'compile_s': round(seconds['compile'], 2),
    'python_s': round(first - seconds['setup'] - seconds['compile'], 2),
    'cached_programs': len(list((cache / 'xla').glob('*-cache'))),
  }


def _seconds(workdir: pathlib.Path) -> dict[str, float]:
  """Where the time of the stopped run went, from its checkpoint."""
  (header,) = (workdir / 'checkpoints').glob('*/meta/metadata')
  return json.loads(header.read_text())['meta']['clock']['seconds']


if __name__ == '__main__':
  main()

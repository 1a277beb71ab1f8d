"""`varjax demo`: the whole path on the built-in images, as a user would.

Every stage is an ordinary `varjax` command in its own process, printed
before it runs. Each of them skips what is done, so the demo resumes where
it was stopped.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

from varjax import errors
from varjax.launch import allocator
from varjax.tools import arguments
from varjax.workdir import write_json

_TOKENIZER = 'experiments/emoji_tokenizer.py'
_SWEEP = 'sweeps/emoji_ladder.py'
_LARGEST = 'emoji_var-d7'


def main(argv: list[str]) -> int:
  """Runs all stages; returns the exit code of the first that fails.

  Raises:
    ConfigError: it was not started from the root of a checkout.
  """
  parser = arguments.parser(
    'demo',
    'Tokenizer, codes, a ladder of models, fit, samples and report on the '
    'built-in images, in minutes on two CPU cores. Run it from the root of '
    'the repository; run it again to resume.',
  )
  parser.add_argument(
    '--workdir', default='runs/demo', help='folder of all that it writes'
  )
  parser.add_argument(
    '--parallel',
    type=int,
    default=0,
    help='trials at a time; 0 is one per core',
  )
  parser.add_argument(
    '--quick',
    action='store_true',
    help='a few updates of everything: checks the path, not the science',
  )
  parser.add_argument(
    '--dry_run', action='store_true', help='print the commands only'
  )
  args = parser.parse_args(argv)
  for file in (_TOKENIZER, _SWEEP):
    if not pathlib.Path(file).is_file():
      raise errors.ConfigError(
        f'{file}: not found; run `varjax demo` from the root of a checkout'
      )
  root = pathlib.Path(args.workdir)
  commands = stages(root, args.parallel, args.quick)
  if args.dry_run:
    for command in commands:
      print(_text(command))
    return 0
  return _run_all(root, commands)


def stages(root: pathlib.Path, parallel: int, quick: bool) -> list[list[str]]:
  """The commands of the demo, as arguments of `varjax`."""
  tokenizer, codes = str(root / 'tokenizer'), str(root / 'codes')
  train = ['train', '--config', _TOKENIZER, '--workdir', tokenizer]
  encode = ['encode', '--tokenizer', tokenizer, '--out', codes]
  encode += ['--views', '1' if quick else '4']
  sweep = ['sweep', _SWEEP, '--workdir', str(root)]
  sweep += [f'--config.tokenizer_dir={tokenizer}']
  sweep += [f'--config.codes_dir={codes}']
  # One core per trial: models this small do not fill two.
  cores = len(os.sched_getaffinity(0)) if parallel == 0 else parallel
  sweep += ['--parallel', str(cores)]
  if quick:
    train += ['--config.total.steps=4', '--config.batch_size=8']
    sweep += ['--config.total.steps=6', '--config.batch_size=8']
  fit = ['fit', str(root / 'records.jsonl'), '--out', str(root)]
  sample = ['sample', '--workdir', str(root), '--run', _LARGEST]
  sample += ['--labels', 'all', '--repeat', '8', '--out']
  sample += [str(root / 'samples.png')]
  report = ['report', str(root)]
  return [train, encode, sweep, fit, sample, report]


def _run_all(root: pathlib.Path, commands: list[list[str]]) -> int:
  root.mkdir(parents=True, exist_ok=True)
  log = root / 'commands.json'
  done: dict[str, dict] = {}
  if log.is_file():
    done = {row['command']: row for row in json.loads(log.read_text())}
  start = time.monotonic()
  environment = allocator.with_huge_pages(os.environ)
  for index, command in enumerate(commands, start=1):
    text = _text(command)
    print(f'\n[{index}/{len(commands)}] {text}', flush=True)
    begin = time.monotonic()
    code = subprocess.run(
      [sys.executable, '-m', 'varjax', *command], env=environment
    ).returncode
    if code:
      print(f'varjax demo: stage {index} failed with exit code {code}')
      return code
    seconds = time.monotonic() - begin
    # A stage that had nothing left to do keeps the time of its real run.
    before = done.get(text, {'seconds': 0.0})['seconds']
    row = {'command': text, 'seconds': max(seconds, before)}
    done[text] = row
    write_json(log, list(done.values()))
  minutes = (time.monotonic() - start) / 60
  print(f'\ndemo finished in {minutes:.1f} min; open {root}/report.html')
  return 0


def _text(command: list[str]) -> str:
  return ' '.join(['varjax', *command])

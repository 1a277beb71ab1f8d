"""A real sweep of tiny models, run by real `varjax` processes."""

import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]

_EXPERIMENT = """
import pathlib
import tiny
from varjax import config

def get_config(arg):
  arg = config.parse_arg(arg, depth=1)
  run = tiny.var_run(*map(pathlib.Path, {places!r}), **{{
    'model.depth': arg.depth, 'total.steps': {steps}, 'evaluate.steps': 20,
    'checkpoint.steps': 5,
  }})
  return config.as_config(run)
"""

_TOKENIZER = """
import pathlib
import tiny
from varjax import config

def get_config(arg):
  return config.as_config(tiny.tokenizer_run(pathlib.Path({images!r})))
"""

_SWEEP = """
def get_hyper(hyper):
  return hyper.zipit(
    hyper.sweep(
      'config', [f'{experiment}:depth={{d}}' for d in range(1, {models} + 1)]
    ),
    hyper.sweep('name', {names!r}),
  )
"""


def environment():
  """One device per process, and the tests' own modules at hand."""
  path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
  return {**os.environ, 'PYTHONPATH': path, 'XLA_FLAGS': ''}


def varjax(*argv, **how):
  """Starts `varjax ARGV` on one device."""
  command = [sys.executable, '-m', 'varjax', *map(str, argv)]
  return subprocess.Popen(command, env=environment(), cwd=ROOT, **how)


def finish(process):
  assert process.wait(timeout=900) == 0


def write(root, models, steps=60):
  """A tokenizer, codes and a sweep file of depths 1, 2, ...; its path."""
  import tiny

  images = tiny.write_images(root / 'images')
  (root / 'tok.py').write_text(_TOKENIZER.format(images=str(images)))
  tokenizer, codes = root / 'tok', root / 'codes'
  finish(varjax('train', '--config', root / 'tok.py', '--workdir', tokenizer))
  finish(varjax('encode', '--tokenizer', tokenizer, '--out', codes))
  places = [str(images), str(tokenizer), str(codes)]
  experiment = root / 'exp.py'
  experiment.write_text(_EXPERIMENT.format(places=places, steps=steps))
  sweep = root / 'ladder.py'
  names = ['one', 'two', 'three', 'four', 'five', 'six'][:models]
  sweep.write_text(
    _SWEEP.format(experiment=experiment, models=models, names=names)
  )
  return sweep


def table(folder):
  """What a person compares: ids, updates, losses, errors."""
  rows = [
    json.loads(line)
    for line in (folder / 'records.jsonl').read_text().splitlines()
  ]
  keys = (
    'run_id', 'name', 'status', 'steps', 'val_loss_nats_per_token',
    'val_loss_scales', 'val_err', 'train_loss_nats_per_token',
  )  # fmt: skip
  return [[row[key] for key in keys] for row in rows]


def wait_for(condition, process):
  """Waits for `condition`, while `process` has not ended."""
  deadline = time.monotonic() + 600
  while not condition():
    assert process.poll() is None, 'the sweep ended before it was disturbed'
    assert time.monotonic() < deadline
    time.sleep(0.02)


def checkpoints(folder, name):
  return list(folder.glob(f'trials/{name}-*/checkpoints/[0-9]*'))

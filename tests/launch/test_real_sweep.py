"""A real sweep, killed three times, ends with the undisturbed table."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

_EXPERIMENT = """
import pathlib
import tiny
from varjax import config

def get_config(arg):
  arg = config.parse_arg(arg, depth=1)
  run = tiny.var_run(*map(pathlib.Path, {places!r}), **{{
    'model.depth': arg.depth, 'total.steps': 60, 'evaluate.steps': 20,
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
    hyper.sweep('config', [f'{experiment}:depth={{d}}' for d in (1, 2, 3)]),
    hyper.sweep('name', ['one', 'two', 'three']),
  )
"""


def varjax(*argv):
  """Starts `varjax ARGV` on one device."""
  path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
  environment = {**os.environ, 'PYTHONPATH': path, 'XLA_FLAGS': ''}
  command = [sys.executable, '-m', 'varjax', *map(str, argv)]
  return subprocess.Popen(command, env=environment, cwd=ROOT)


def finish(process):
  assert process.wait(timeout=600) == 0


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
  deadline = time.monotonic() + 300
  while not condition():
    assert process.poll() is None, 'the sweep ended before it was killed'
    assert time.monotonic() < deadline
    time.sleep(0.02)


def checkpoints(folder, name):
  return list(folder.glob(f'trials/{name}-*/checkpoints/[0-9]*'))


@pytest.mark.slow
def test_kill_9_at_three_moments_gives_the_undisturbed_table(tmp_path):
  import tiny

  images = tiny.write_images(tmp_path / 'images')
  (tmp_path / 'tok.py').write_text(_TOKENIZER.format(images=str(images)))
  tokenizer, codes = tmp_path / 'tok', tmp_path / 'codes'
  finish(
    varjax('train', '--config', tmp_path / 'tok.py', '--workdir', tokenizer)
  )
  finish(varjax('encode', '--tokenizer', tokenizer, '--out', codes))
  places = [str(images), str(tokenizer), str(codes)]
  experiment = tmp_path / 'exp.py'
  experiment.write_text(_EXPERIMENT.format(places=places))
  sweep = tmp_path / 'ladder.py'
  sweep.write_text(_SWEEP.format(experiment=experiment))

  calm, rough = tmp_path / 'calm', tmp_path / 'rough'
  finish(varjax('sweep', sweep, '--workdir', calm, '--parallel', '1'))

  moments = (
    # A first checkpoint is there: in the middle of training.
    lambda: checkpoints(rough, 'one'),
    # The first run is complete and merged, the second has begun.
    lambda: checkpoints(rough, 'two'),
    # A record is written, its merge may not be.
    lambda: list(rough.glob('trials/three-*/records.jsonl')),
  )
  for moment in moments:
    process = varjax('sweep', sweep, '--workdir', rough, '--parallel', '1')
    wait_for(moment, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
  finish(varjax('sweep', sweep, '--workdir', rough, '--parallel', '1'))
  assert len(table(calm)) == 3
  assert table(rough) == table(calm)

"""Every speed benchmark runs to its end on tiny shapes, and prints lines."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Absent on a bare accelerator machine, where all but what reads data must run.
ABSENT = ('tensorflow_datasets', 'clu', 'grain', 'array_record',
          'ml_collections')  # fmt: skip


def _lines(name, *options):
  """What a benchmark prints, as on a machine without the data stack."""
  absent = () if name in ('feed', 'prefetch') else ABSENT
  code = (
    'import sys, runpy\n'
    f'for name in {absent}:\n  sys.modules[name] = None\n'
    f'sys.argv = {[f"{name}.py", *options]}\n'
    'sys.path.insert(0, "benchmarks")\n'
    f'runpy.run_path("benchmarks/{name}.py", run_name="__main__")\n'
  )
  # On the one device of a bare machine, not on the eight of these tests.
  own = {key: text for key, text in os.environ.items() if key != 'XLA_FLAGS'}
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT, capture_output=True, text=True, timeout=900,
    env=own, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    'step_time',
    'attention',
    'elementwise',
    'decode',
    'tokenize_images',
    'compile_time',
    'feed',
    'filters',
    'few_rows',
    'prefetch',
  ],
)
def test_quick(name):
  lines = [json.loads(line) for line in _lines(name, '--quick')]
  assert lines
  for line in lines:
    assert line['device'] == 'cpu'
    assert 'error' not in line
    assert line.get('ms', line.get('images_per_s', line.get('compile_s'))) > 0


@pytest.mark.slow
def test_the_fast_path_stays_within_the_noise_of_bfloat16():
  """200 updates; noise is a reference that sums each batch in two parts."""
  lines = _lines('loss_curves', '--quick', '--updates', '200')
  exact, low = (json.loads(line) for line in lines)
  for line in (exact, low):
    assert line['updates'] == 200
    assert line['last'] < 0.6 * line['first']
  assert exact['max'] < 1e-5
  assert 0 < low['noise_mean'] < 0.01
  assert low['mean'] < 3 * low['noise_mean']
  assert low['max'] < 3 * low['noise_max']


def test_scripts_load_on_a_bare_accelerator_machine():
  names = ('attention', 'compile_time', 'decode', 'elementwise', 'few_rows',
           'filters', 'loss_curves', 'report', 'step_time', 'targets',
           'tokenize_images')  # fmt: skip
  code = (
    f'import sys, importlib\nfor name in {ABSENT}:\n'
    '  sys.modules[name] = None\n'
    f'sys.path.insert(0, "benchmarks")\nfor name in {names}:\n'
    '  importlib.import_module(name)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr


def test_phases_of_a_case_are_a_table():
  rows = _lines('step_time', '--phases', 'h100', '--remat', 'auto')
  assert rows[0] == 'd16, batch 64, remat none, on one h100:'
  parts = [[float(v) for v in row.split('|')[2:-1]] for row in rows[4:]]
  *parts, total = parts
  assert len(parts) > 20
  for column in range(4):
    found = sum(part[column] for part in parts)
    assert abs(found - total[column]) < 0.01 * total[column]

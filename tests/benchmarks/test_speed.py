"""Every speed benchmark runs to its end on tiny shapes, and prints lines."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Absent on a bare accelerator machine, where all but feed.py must run.
ABSENT = ('tensorflow_datasets', 'clu', 'grain', 'array_record',
          'ml_collections')  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    'step_time',
    'attention',
    'decode',
    'tokenize_images',
    'compile_time',
    'feed',
  ],
)
def test_quick(name):
  absent = () if name == 'feed' else ABSENT
  code = (
    'import sys, runpy\n'
    f'for name in {absent}:\n  sys.modules[name] = None\n'
    f'sys.argv = ["{name}.py", "--quick"]\n'
    'sys.path.insert(0, "benchmarks")\n'
    f'runpy.run_path("benchmarks/{name}.py", run_name="__main__")\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT, capture_output=True, text=True, timeout=600,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  assert lines
  for line in lines:
    assert line['device'] == 'cpu'
    assert 'error' not in line
    assert line.get('images_per_s', line.get('compile_s')) > 0

"""The start-up benchmark starts a run cold and warm, and splits its time."""

import importlib.util
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.mark.slow
def test_quick():
  spec = importlib.util.spec_from_file_location(
    'startup', BENCHMARKS / 'startup.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  cold, warm = module.main(['--quick'])
  assert (cold['case'], warm['case']) == ('cold', 'warm')
  for row in (cold, warm):
    parts = row['setup_s'] + row['compile_s'] + row['python_s']
    assert parts == pytest.approx(row['first_step_s'], abs=0.05)
    assert min(row['setup_s'], row['compile_s'], row['python_s']) > 0
  assert cold['cached_programs'] == warm['cached_programs'] > 0
  assert warm['compile_s'] < cold['compile_s']

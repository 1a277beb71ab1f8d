"""The table of speeds: the best case of the right device, or none."""

import importlib.util
import json
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def report():
  spec = importlib.util.spec_from_file_location(
    'speed_report', BENCHMARKS / 'report.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


BASELINES = {
  'source': 'somewhere',
  'device': 'GPU',
  'rows': [
    {'benchmark': 'step_time', 'case': 'd16/b64/', 'metric': 'tflops',
     'official': 200, 'how': 'eager', 'target': 450},
    {'benchmark': 'decode', 'case': 'd16/b1/', 'metric': 'ms',
     'official': 180, 'how': 'eager', 'target': 15},
  ],
}  # fmt: skip


def _row(benchmark, case, device='GPU', **facts):
  return {'benchmark': benchmark, 'case': case, 'device': device, **facts}


def test_best_case_of_the_device_and_its_ratio(report):
  text = report.report(
    BASELINES,
    [
      _row('step_time', 'd16/b64/dots/xla', tflops=250),
      _row('step_time', 'd16/b64/none/xla', tflops=300),
      _row('step_time', 'd16/b640/none/xla', tflops=900),
      _row('step_time', 'd16/b64/full/xla', error='out of memory'),
      _row('step_time', 'd16/b64/none/xla', device='CPU', tflops=999),
      _row('decode', 'd16/b1/cfg1.5', ms=90),
      _row('decode', 'd16/b1/cfg0', ms=60),
    ],
  )
  table = text.split('Other cases')[0]
  assert 'd16/b64/none/xla | tflops | 200 (eager) | 300 | 450 | 1.50×' in table
  assert 'd16/b1/cfg0 | ms | 180 (eager) | 60 | 15 | 3.00×' in table
  assert '999' not in table
  assert '| CPU | step_time |' in text


def test_a_row_may_name_another_device(report):
  row = {
    'benchmark': 'fit', 'case': 'boot', 'metric': 'seconds', 'official': 30,
    'how': 'a loop', 'target': 15, 'device': 'cpu',
  }  # fmt: skip
  text = report.report(
    {**BASELINES, 'rows': [row]},
    [_row('fit', 'boot/jax', device='cpu', seconds=2),
     _row('fit', 'boot', device='GPU', seconds=1)],
  )  # fmt: skip
  assert 'boot/jax | seconds | 30 (a loop) | 2 | 15 | 15.00×' in text
  assert text.count('boot/jax') == 1


def test_what_nobody_measured_is_missing(report):
  text = report.report(BASELINES, [])
  assert text.count('not measured') == 2
  assert '×' not in text


def test_stored_baselines_name_benchmarks_that_exist(report):
  baselines = json.loads((BENCHMARKS / 'baselines.json').read_text())
  assert report.report(baselines, []).count('not measured') == len(
    baselines['rows']
  )
  sources = ''.join(p.read_text() for p in BENCHMARKS.glob('*.py'))
  for row in baselines['rows']:
    assert f"'{row['benchmark']}'" in sources


def test_other_files_are_refused(report, tmp_path):
  (tmp_path / 'x.jsonl').write_text('{"ms": 1}\n')
  with pytest.raises(SystemExit, match=r'x\.jsonl:1'):
    report.read([tmp_path / 'x.jsonl'])

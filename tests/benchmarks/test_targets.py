"""All targets by one command: what runs, what is kept, what is not repeated."""

import importlib
import json
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'
LINE = '{"benchmark": "b", "case": "c", "ms": 1, "command": "%s"}'


@pytest.fixture
def targets(tmp_path, monkeypatch):
  """The module, with scripts of our own in place of the benchmarks."""
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  module = importlib.import_module('targets')
  here = tmp_path / 'benchmarks'
  here.mkdir()
  (here / 'good.py').write_text(
    'import sys\n'
    'open("calls", "a").write("x")\n'
    f"print('{LINE}' % ' '.join(sys.argv))\n"
  )
  (here / 'bad.py').write_text(
    f"print('{LINE}' % 'half')\nraise ValueError('no such device')\n"
  )
  (here / 'slow.py').write_text(
    f"print('{LINE}' % 'first', flush=True)\nimport time\ntime.sleep(600)\n"
  )
  monkeypatch.setattr(module, '_HERE', here)
  return module


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_there_is_not_measured_again(targets, tmp_path):
  out = tmp_path / 'deep' / 'lines.jsonl'
  case = targets.Case('good', ('--sizes', 'd16'))
  assert targets.run([case], out, 60) == {}
  assert targets.run([case], out, 60) == {}
  assert [line['command'] for line in _lines(out)] == [case.words]
  assert targets.run([case], out, 60, again=True) == {}
  assert len(_lines(out)) == 2
  assert (tmp_path / 'calls').read_text() == 'xx'


def test_a_case_that_fails_takes_no_other_with_it(targets, tmp_path):
  out = tmp_path / 'lines.jsonl'
  bad, good = targets.Case('bad', ()), targets.Case('good', ())
  absent = targets.Case('good', ('-x',), needs=('no_such_package',))
  failed = targets.run([bad, absent, good], out, 60)
  assert set(failed) == {bad.words, absent.words}
  assert 'no such device' in failed[bad.words]
  assert 'needs no_such_package' in failed[absent.words]
  # What the failing one had found is kept.
  assert [line['command'] for line in _lines(out)] == ['half', good.words]


def test_time_that_is_over_stops_a_case_and_begins_none(targets, tmp_path):
  out = tmp_path / 'lines.jsonl'
  slow, good = targets.Case('slow', ()), targets.Case('good', ())
  failed = targets.run([slow, good], out, 3)
  assert 'stopped after' in failed[slow.words]
  assert 'no time was left' in failed[good.words]
  assert [line['command'] for line in _lines(out)] == ['first']


def test_every_case_is_a_script_with_these_options(monkeypatch, capsys):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  targets = importlib.import_module('targets')
  assert targets.main(['--dry_run']) == 0
  listed = capsys.readouterr().out.splitlines()
  assert len(listed) == len(set(listed)) > 20
  for case in (*targets.cases(), *targets.cases(quick=True)):
    text = (BENCHMARKS / f'{case.script}.py').read_text()
    for option in case.options:
      if option.startswith('--'):
        assert f"'{option}'" in text, case.words
  # Every row of the table has a case that measures it.
  rows = json.loads((BENCHMARKS / 'baselines.json').read_text())['rows']
  names = {'tokenize': 'tokenize_images', 'compile': 'compile_time'}
  scripts = {case.script for case in targets.cases()} | {'demo'}
  for row in rows:
    assert names.get(row['benchmark'], row['benchmark']) in scripts


def test_unknown_scripts_and_a_missing_file_are_refused(monkeypatch, capsys):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  targets = importlib.import_module('targets')
  for argv, said in ((['--only', 'sorting'], 'must be among'), ([], '--out')):
    with pytest.raises(SystemExit) as stopped:
      targets.main(argv)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err

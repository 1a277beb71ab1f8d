"""The soak: its verdicts, and a short one for real."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def soak():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / 'benchmarks'))
    import soak as module

    yield module


def test_every_kind_is_dealt_before_any_comes_again(soak):
  deck = soak.deal(3, 60, may_fill=True)
  assert set(deck[: len(soak.FAULTS)]) == set(soak.FAULTS)
  assert len(deck) == 60
  assert deck == soak.deal(3, 60, may_fill=True)
  assert deck != soak.deal(4, 60, may_fill=True)
  assert 'full disk' not in soak.deal(3, 60, may_fill=False)
  for name, (_, often) in soak.FAULTS.items():
    assert deck.count(name) == often


_CALM = {
  'records': [['a', 'one', 'complete', 2.5], ['b', 'two', 'complete', 2.25]],
  'curves': [['a', 2.75]],
  'metrics': {'one': [{'step': 2, 'loss': 3.0}]},
}


@pytest.mark.parametrize(
  ('change', 'lost', 'doubled'),
  [
    (lambda r: r['records'].pop(), 1, 0),
    (lambda r: r['records'].append(r['records'][0]), 0, 1),
    (lambda r: r['records'].append(['c', 'x', 'complete', 1.0]), 0, 1),
    (lambda r: r['records'][0].__setitem__(3, 2.5000000000000004), 0, 0),
    (lambda r: r['records'][0].__setitem__(2, 'failed'), 0, 0),
    (lambda r: r['curves'].append(['a', 2.75]), 0, 0),
    (lambda r: r['metrics']['one'].pop(), 0, 0),
  ],
)
def test_lost_doubled_and_different_results_are_found(
  soak, change, lost, doubled
):
  found = json.loads(json.dumps(_CALM))
  assert soak.judge(found, _CALM) == {
    'lost': 0, 'doubled': 0, 'identical': True,
  }  # fmt: skip
  change(found)
  verdict = soak.judge(found, _CALM)
  assert (verdict['lost'], verdict['doubled']) == (lost, doubled)
  assert not verdict['identical']


def test_a_fault_that_nothing_was_said_about_is_not_ok(soak):
  good = {'lost': 0, 'doubled': 0, 'identical': True}
  harm = soak.Harm('at noon', r'killed by SIG\w+')
  row = soak._row('kill', harm, 'a\nretry: killed by SIGKILL\nb', good)
  assert row['ok']
  assert row['message'] == 'retry: killed by SIGKILL'
  assert not soak._row('kill', harm, 'a\nb', good)['ok']
  assert not soak._row('kill', harm, row['message'], {**good, 'lost': 1})['ok']
  bad = {**good, 'identical': False}
  assert not soak._row('kill', harm, row['message'], bad)['ok']
  assert '**differ**' in soak.table([soak._row('kill', harm, '', bad)])


def test_what_was_said_about_an_earlier_fault_does_not_count(soak):
  before = 'retry: killed by SIGKILL\nstart'
  assert soak._since(before, before + '\nend') == 'end'
  twice = before + '\nretry: killed by SIGKILL'
  assert soak._since(before, twice) == 'retry: killed by SIGKILL'


@pytest.mark.slow
def test_a_short_soak_finds_nothing(tmp_path):
  command = [sys.executable, ROOT / 'benchmarks' / 'soak.py', '--faults', '6',
             '--seed', '5', '--workdir', tmp_path / 'soak',
             '--out', tmp_path / 'soak.jsonl']  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
  assert done.returncode == 0, done.stdout + done.stderr
  assert (
    '0 records lost, 0 doubled, 0 silent divergences, 0 without a word'
    in done.stdout
  )

"""How trials are started, judged, retried, and given their cores."""

import json
import os

import pytest

from varjax import errors, records
from varjax.launch import collect, local, logs, manifest


def _statuses(sweep_dir):
  found = records.read(sweep_dir / 'records.jsonl')
  return {r.name: r.status for r in found}


def test_crashes_are_retried_and_typed_errors_are_not(bench, tmp_path, capsys):
  file = bench.named('steady', 'shaky', 'typed', 'hopeless', 'mute', 'killed')
  assert bench.run(file, tmp_path, '--retries=2', '--parallel=2') == 1
  attempts = {
    path.parent.name.rpartition('-')[0]: int(path.read_text())
    for path in tmp_path.glob('trials/*/attempts')
  }
  assert attempts == {
    'steady': 1, 'shaky': 3, 'typed': 1, 'hopeless': 3, 'mute': 3, 'killed': 3,
  }  # fmt: skip
  assert _statuses(tmp_path) == {
    'steady': 'complete', 'shaky': 'complete', 'typed': 'failed',
    'hopeless': 'failed', 'mute': 'failed', 'killed': 'failed',
  }  # fmt: skip
  by_name = {r.name: r for r in records.read(tmp_path / 'records.jsonl')}
  assert by_name['typed'].error == (
    'varjax train: optim.lr=-1: must be positive'
  )
  assert by_name['hopeless'].error == ('RuntimeError: out of luck in attempt 3')
  assert by_name['hopeless'].sweep == 'ladder'
  assert 'no complete record' in by_name['mute'].error
  assert by_name['killed'].error.startswith('killed by SIGKILL')
  table = capsys.readouterr().out.split('\n#  ')[-1]
  for record in by_name.values():
    assert record.run_id in table
  assert '6 trials: 2 complete, 4 failed' in table
  assert 'out of luck in attempt 3' in table
  parquet = records.load(tmp_path / 'records.parquet')
  assert sorted(parquet['name']) == sorted(by_name)
  assert len(records.read(tmp_path / 'curves.jsonl')) == 2


def test_complete_trials_are_skipped_and_failed_ones_run_again(
  bench, tmp_path, capsys
):
  file = bench.named('steady', 'shaky')
  assert bench.run(file, tmp_path, '--retries=0') == 1
  assert _statuses(tmp_path) == {'steady': 'complete', 'shaky': 'failed'}
  assert bench.run(file, tmp_path, '--retries=1') == 0
  assert _statuses(tmp_path) == {'steady': 'complete', 'shaky': 'complete'}
  assert '1 already complete, 1 to run' in capsys.readouterr().out
  [steady] = tmp_path.glob('trials/steady-*/attempts')
  assert steady.read_text() == '1'
  assert bench.run(file, tmp_path) == 0
  assert '2 already complete, 0 to run' in capsys.readouterr().out


def test_records_of_other_runs_are_merged_exactly_once(bench, tmp_path):
  tokenizer = records.RunRecord(
    run_id='t' * 12, name='tokenizer', task='reconstruct', status='complete',
    val_psnr_db=21.5,
  )  # fmt: skip
  records.append(tmp_path / 'tokenizer' / 'records.jsonl', tokenizer)
  file = bench.named('one', 'two')
  for _ in range(2):
    assert bench.run(file, tmp_path) == 0
    names = [r.name for r in records.read(tmp_path / 'records.jsonl')]
    assert sorted(names) == ['one', 'tokenizer', 'two']


def test_an_unreadable_record_of_a_run_is_named_and_loses_nothing(
  bench, tmp_path, capsys
):
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'records.jsonl').write_text('{"run_id": "x", "schema": 99}\n')
  assert bench.run(bench.named('one'), tmp_path) == 0
  assert str(other / 'records.jsonl') in capsys.readouterr().err
  assert _statuses(tmp_path) == {'one': 'complete'}
  [path] = tmp_path.glob('trials/one-*/records.jsonl')
  path.write_text('{"run_id": "x", "schema": 99}\n')
  (tmp_path / 'records.jsonl').unlink()
  assert bench.run(bench.named('one'), tmp_path, '--retries=0') == 1
  [record] = records.read(tmp_path / 'records.jsonl')
  assert 'schema 99' in record.error
  assert bench.run(bench.named('one'), tmp_path, '--retries=0') == 0


def test_only_and_overrides(bench, tmp_path):
  file = bench.named('one', 'two', 'three')
  assert bench.run(file, tmp_path, '--only', 'name=t*') == 0
  assert _statuses(tmp_path) == {'two': 'complete', 'three': 'complete'}
  _, trials, _ = manifest.read(tmp_path)
  assert [t.name for t in trials] == ['one', 'two', 'three']
  with pytest.raises(errors.ConfigError, match='matches no trial'):
    bench.run(file, tmp_path, '--only', 'name=four')
  with pytest.raises(errors.ConfigError, match=r'optim\.lrr.*unknown key'):
    bench.run(file, tmp_path, '--config.optim.lrr=1')


def test_a_changed_sweep_says_what_is_new_and_keeps_the_records(
  bench, tmp_path, capsys
):
  assert bench.run(bench.named('one', 'two'), tmp_path) == 0
  capsys.readouterr()
  assert bench.run(bench.named('one', 'two', 'three'), tmp_path) == 0
  out = capsys.readouterr().out
  assert '3 selected, 2 already complete, 1 to run' in out
  assert 'new in this sweep: three (' in out
  assert bench.run(bench.named('one'), tmp_path) == 0
  assert 'no longer in this sweep: two (' in capsys.readouterr().out
  assert set(_statuses(tmp_path)) == {'one', 'two', 'three'}


def test_a_renamed_trial_is_the_same_run(bench, tmp_path):
  assert bench.run(bench.named('shaky'), tmp_path, '--retries=0') == 1
  assert bench.run(bench.named('renamed'), tmp_path) == 0
  assert len(list(tmp_path.glob('trials/*'))) == 1


def test_one_bad_trial_refuses_the_whole_sweep(bench, tmp_path):
  file = bench.sweep_file(
    "hyper.product(hyper.fixed('config', 'experiments/x.py'), "
    "hyper.sweep('optim.lr', [1e-3, 'fast']))",
    'bad',
  )
  with pytest.raises(errors.ConfigError, match=r'trial 1 .*optim\.lr'):
    bench.run(file, tmp_path / 'd')
  assert not (tmp_path / 'd').exists()
  file = bench.sweep_file(
    "hyper.product(hyper.fixed('config', 'experiments/x.py'), "
    "hyper.sweep('role', ['fit', 'holdout']))",
    'same',
  )
  with pytest.raises(errors.ConfigError, match='are the same run'):
    bench.run(file, tmp_path / 'd')


def test_cores_are_shared_out():
  assert local.split_cores([0, 1, 2, 3, 4], 2) == [[0, 1], [2, 3]]
  assert local.split_cores([3, 5], 3) == [[3], [5], [3]]
  assert local.split_cores([3, 5], 1) == [[3, 5]]


@pytest.mark.skipif(len(local.cores()) < 2, reason='needs two cores')
def test_parallel_trials_are_pinned_to_their_own_cores(bench, tmp_path):
  file = bench.named('one', 'two')
  assert bench.run(file, tmp_path, '--parallel=2') == 0
  last = {logs.last_line(path) for path in tmp_path.glob('trials/*/log.txt')}
  shares = local.split_cores(local.cores(), 2)
  assert last == {f'cores {share} sweep ladder' for share in shares}
  assert (
    bench.run(file, tmp_path / 'free', '--parallel=2', '--no-pin_cores') == 0
  )
  for path in tmp_path.glob('free/trials/*/log.txt'):
    assert logs.last_line(path) == f'cores {local.cores()} sweep ladder'


def test_last_line_sees_through_bars_and_colours(tmp_path):
  log = tmp_path / 'log.txt'
  log.write_bytes(b'first\n\x1b[31mstep 1\x1b[0m\rstep 2\r\n\n  \n')
  assert logs.last_line(log) == 'step 2'
  assert logs.last_line(log, log.stat().st_size) == ''
  assert logs.last_line(tmp_path / 'absent') == ''


def test_peek_and_collect_agree_on_fragments(bench, tmp_path):
  assert bench.run(bench.named('one'), tmp_path) == 0
  [path] = tmp_path.glob('trials/one-*/records.jsonl')
  with open(path, 'a') as file:
    file.write('{"schema": 1, "run_i')
  (tmp_path / 'records.partial').write_text('{"schema": 1')
  before = collect.peek(tmp_path)
  merged, problems = collect.collect(tmp_path)
  assert before == merged
  assert not problems
  assert json.loads((tmp_path / 'running.json').read_text()) == []
  assert os.path.getsize(tmp_path / 'records.parquet') > 0

"""Records: append-only, typed, merged exactly once, never lost."""

import dataclasses
import json
import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from varjax import errors, records
from varjax.records import RunRecord


def record(run_id='a', status='complete', **fields):
  return RunRecord(run_id=run_id, status=status, **fields)


def test_round_trip_keeps_types_and_nulls(tmp_path):
  path = tmp_path / 'records.jsonl'
  one = record(steps=3, val_err=0.5, name='x')
  records.append(path, one)
  assert records.read(path) == [one]
  table = records.load(path)
  assert table['steps'].dtype == 'Int64'
  assert table['steps'][0] == 3
  assert table['wall_s'].isna().all()
  assert math.isnan(table['val_loss_sem'][0])


def test_nan_is_refused_before_anything_is_written(tmp_path):
  path = tmp_path / 'records.jsonl'
  with pytest.raises(errors.RecordError, match='NaN'):
    records.append(path, record(val_err=math.nan))
  assert not path.exists()


def test_half_a_line_is_skipped_and_ended(tmp_path):
  path = tmp_path / 'records.jsonl'
  records.append(path, record('a'))
  with open(path, 'a') as file:
    file.write('{"run_id": "b", "schem')
  records.append(path, record('c'))
  assert [r.run_id for r in records.read(path)] == ['a', 'c']


def test_a_complete_record_is_never_replaced_by_a_failure():
  found = records.latest([record('a'), record('a', 'failed', error='x')])
  assert [r.status for r in found] == ['complete']
  found = records.latest([record('a', 'failed'), record('a', steps=1)])
  assert [(r.status, r.steps) for r in found] == [('complete', 1)]


def test_merge_is_idempotent_and_keeps_what_has_gone(tmp_path):
  source, target = tmp_path / 's.jsonl', tmp_path / 't.jsonl'
  records.append(source, record('a', params_body=2))
  records.append(source, record('b', params_body=1))
  first = records.merge([source], target)
  assert [r.run_id for r in first] == ['b', 'a']
  content = target.read_bytes()
  records.merge([source, source], target)
  assert target.read_bytes() == content
  source.unlink()
  records.merge([source], target)
  assert target.read_bytes() == content


def test_curves_keep_one_row_per_step(tmp_path):
  path = tmp_path / 'curves.jsonl'
  for step in (1, 2, 2):
    records.append(path, record('a', 'running', steps=step))
  assert records.load_curves(path)['steps'].tolist() == [1, 2]


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    ({'schema': 1}, 'not a run record'),
    ({'run_id': 'a', 'schema': 99}, 'schema 99'),
    ({'run_id': 'a', 'schema': 1, 'los': 2}, "unknown column 'los'"),
  ],
)
def test_foreign_lines_are_named(tmp_path, line, said):
  path = tmp_path / 'records.jsonl'
  path.write_text(json.dumps(line) + '\n')
  with pytest.raises(errors.RecordError, match=said):
    records.load(path)


def test_missing_file_is_one_sentence(tmp_path):
  with pytest.raises(errors.RecordError, match='no such record file'):
    records.load(tmp_path / 'none.jsonl')


def test_parquet_round_trip(tmp_path):
  table = records.frame([record('a', steps=2), record('b')])
  records.write_parquet(table, tmp_path / 'r.parquet')
  again = records.load(tmp_path / 'r.parquet')
  assert again['run_id'].tolist() == ['a', 'b']
  assert again['steps'][0] == 2


@given(
  st.lists(
    st.tuples(st.sampled_from('abc'), st.sampled_from(records.STATUSES)),
    max_size=12,
  )
)
def test_latest_has_each_run_once_and_no_completion_is_lost(pairs):
  found = records.latest([record(i, s) for i, s in pairs])
  assert len({r.run_id for r in found}) == len(found)
  complete = {i for i, s in pairs if s == 'complete'}
  assert {r.run_id for r in found if r.status == 'complete'} == complete


def test_every_column_is_documented():
  for field in dataclasses.fields(RunRecord):
    stem = field.name.split('_')[0]
    assert stem in RunRecord.__doc__ or field.name in (
      'seed',
      'dataset',
      'lr_peak',
      'batch_images',
      'restarts',
      'git_commit',
      'jax_version',
      'date',
      'config_json',
      'train_loss_nats_per_token',
    ), field.name

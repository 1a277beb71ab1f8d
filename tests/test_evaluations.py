"""Scores that are added to a run after its record."""

import dataclasses

import pytest

from varjax import errors, evaluations, records
from varjax.evaluations import EvaluationRecord
from varjax.records import RunRecord


def test_scores_join_the_table_of_records(tmp_path):
  path = tmp_path / 'records.jsonl'
  for run in ('a', 'b'):
    records.append(path, RunRecord(run_id=run, status='complete'))
  assert 'fd_efflite0' not in records.load(path)
  mine = tmp_path / evaluations.FILE
  evaluations.append(
    mine,
    EvaluationRecord(run_id='a', values={'fd_efflite0': 9.0, 'kd_efflite0': 1}),
  )
  evaluations.append(
    mine, EvaluationRecord(run_id='a', values={'fd_efflite0': 7.0})
  )
  evaluations.append(
    mine,
    EvaluationRecord(run_id='a', role='sweep', values={'fd_efflite0': 1.0}),
  )
  # A sweep keeps what its trials were given.
  evaluations.append(
    tmp_path / 'trials' / '0' / evaluations.FILE,
    EvaluationRecord(run_id='b', values={'psnr_db': 30.0}),
  )
  table = records.load(path).set_index('run_id')
  assert table.loc['a', 'fd_efflite0'] == 7
  assert table.loc['a', 'kd_efflite0'] == 1
  assert table.loc['b'].isna()['fd_efflite0']
  assert table.loc['b', 'psnr_db'] == 30


def test_a_file_survives_a_kill(tmp_path):
  path = tmp_path / evaluations.FILE
  evaluations.append(path, EvaluationRecord(run_id='a'))
  with open(path, 'a') as file:
    file.write('{"schema": 1, "run_id": "hal')
  evaluations.append(path, EvaluationRecord(run_id='b', values={'x': 1.5}))
  assert [r.run_id for r in evaluations.read(path)] == ['a', 'b']
  assert evaluations.read(path)[1].values == {'x': 1.5}
  assert evaluations.read(tmp_path / 'absent') == []


def test_what_is_no_evaluation_is_refused(tmp_path):
  path = tmp_path / evaluations.FILE
  with pytest.raises(errors.RecordError, match='NaN'):
    evaluations.append(
      path, EvaluationRecord(run_id='a', values={'x': float('nan')})
    )
  with pytest.raises(errors.RecordError, match='kind'):
    evaluations.append(path, EvaluationRecord(run_id='a', kind='guesses'))
  assert not path.exists()
  later = dataclasses.replace(EvaluationRecord(run_id='a'), schema=2)
  evaluations.append(path, later)
  with pytest.raises(errors.RecordError, match='schema 2'):
    evaluations.read(path)
  path.write_text('{"schema": 1, "run_id": "a", "more": 1}\n')
  with pytest.raises(errors.RecordError, match="unknown column 'more'"):
    evaluations.read(path)
  path.write_text('[]\n')
  with pytest.raises(errors.RecordError, match='not an evaluation'):
    evaluations.read(path)


def test_a_score_may_not_hide_a_column(tmp_path):
  path = tmp_path / 'records.jsonl'
  records.append(path, RunRecord(run_id='a', status='complete'))
  evaluations.append(
    tmp_path / evaluations.FILE,
    EvaluationRecord(run_id='a', values={'steps': 1.0}),
  )
  with pytest.raises(errors.RecordError, match='name of a column'):
    records.load(path)

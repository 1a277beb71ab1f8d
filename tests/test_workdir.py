"""A workdir belongs to one run."""

import pytest

from varjax import config, errors
from varjax.workdir import Workdir


def run_with(**overrides):
  return config.to_spec(
    config.override(
      config.default_config(), {'data.resolution': 256, **overrides}
    )
  )


def test_claim_twice_and_read_back(tmp_path):
  workdir = Workdir(tmp_path / 'w')
  run = run_with(seed=5)
  workdir.claim(run, 'id1')
  workdir.claim(run, 'id1')
  assert workdir.run() == run
  assert workdir.run_id() == 'id1'


def test_another_config_is_refused_and_names_the_key(tmp_path):
  workdir = Workdir(tmp_path)
  workdir.claim(run_with(), 'id1')
  before = workdir.run_file.read_bytes()
  with pytest.raises(errors.CheckpointError, match=r'optim\.lr=0\.0001 there'):
    workdir.claim(run_with(**{'optim.lr': 0.5}), 'id2')
  assert workdir.run_file.read_bytes() == before


def test_other_inputs_are_said(tmp_path):
  workdir = Workdir(tmp_path)
  workdir.claim(run_with(), 'id1')
  with pytest.raises(errors.CheckpointError, match='other inputs or code'):
    workdir.claim(run_with(), 'id2')


def test_a_folder_that_is_no_workdir(tmp_path):
  with pytest.raises(errors.CheckpointError, match=r'run\.json'):
    Workdir(tmp_path).run()
  (tmp_path / 'run.json').write_text('{')
  with pytest.raises(errors.CheckpointError, match='not JSON'):
    Workdir(tmp_path).run_id()

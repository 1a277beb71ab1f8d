"""A real run of two processes loses one of them, and ends as if it had not."""

import json
import os
import pathlib
import signal

import pytest
import tiny_ladder
from tiny_ladder import checkpoints, finish, table, varjax, wait_for


@pytest.mark.slow
def test_a_run_that_loses_one_of_two_processes_ends_with_the_same_record(
  tmp_path,
):
  sweep = tiny_ladder.write(tmp_path, models=1, steps=40)
  options = ('--engine', 'slurm', '--submitit_cluster', 'local',
             '--processes', '2', '--backoff_s', '0.1')  # fmt: skip
  calm, rough = tmp_path / 'calm', tmp_path / 'rough'
  finish(varjax('sweep', sweep, '--workdir', calm, *options))
  process = varjax('sweep', sweep, '--workdir', rough, *options)
  wait_for(lambda: checkpoints(rough, 'one'), process)
  [file] = rough.glob('trials/one-*/keeper-1.json')
  os.kill(_child(json.loads(file.read_text())['pid']), signal.SIGKILL)
  finish(process)
  assert len(table(calm)) == 1
  assert table(rough) == table(calm)
  [log] = rough.glob('trials/one-*/log.txt')
  assert '--- attempt 2' in log.read_text()


def _child(pid):
  children = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
  return int(children.split()[0])

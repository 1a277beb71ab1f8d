"""The Slurm engine: submitit's local executor, and a stand-in for Slurm.

No Slurm was at hand: what its commands do is played by fake_slurm.py.
"""

import json
import os
import pathlib
import signal
import time

import fake_slurm
import fake_trainer
import pytest

from varjax import errors, records
from varjax.launch import options, policy, slurm_engine

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _path(monkeypatch):
  # submitit starts an interpreter that must find the package.
  monkeypatch.setenv('PYTHONPATH', str(ROOT))


@pytest.fixture
def slurm(tmp_path, monkeypatch):
  """The folder of a stand-in for Slurm that is first on PATH."""
  folder = tmp_path / 'slurm-state'
  folder.mkdir()
  fake_slurm.install(tmp_path / 'bin')
  monkeypatch.setenv('FAKE_SLURM', str(folder))
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
  return folder


def _attempts(sweep_dir):
  return {
    path.parent.name.rpartition('-')[0]: int(path.read_text())
    for path in sweep_dir.glob('trials/*/attempts')
  }


def _statuses(sweep_dir):
  found = records.read(sweep_dir / 'records.jsonl')
  return {r.name: r.status for r in found}


def test_submitit_s_local_executor_judges_like_the_local_engine(
  bench, tmp_path
):
  file = bench.named('steady', 'shaky', 'typed')
  options = ('--engine=slurm', '--submitit_cluster=local', '--parallel=3')
  assert bench.run(file, tmp_path, *options) == 1
  assert _statuses(tmp_path) == {
    'steady': 'complete', 'shaky': 'complete', 'typed': 'failed',
  }  # fmt: skip
  assert _attempts(tmp_path) == {'steady': 1, 'shaky': 3, 'typed': 1}
  [typed] = [
    r for r in records.read(tmp_path / 'records.jsonl') if r.name == 'typed'
  ]
  assert typed.error == 'varjax train: optim.lr=-1: must be positive'
  [log] = tmp_path.glob('trials/steady-*/log.txt')
  assert log.read_text().endswith('sweep ladder\n')


def test_a_trial_that_loses_one_of_two_processes_starts_again_as_a_whole(
  bench, tmp_path, capsys, monkeypatch
):
  monkeypatch.setenv('FAKE_STEP_S', '0.3')
  assert bench.run(
    bench.named('halved'), tmp_path, '--engine=slurm',
    '--submitit_cluster=local', '--processes=2',
  ) == 0  # fmt: skip
  out = capsys.readouterr().out
  assert out.count('start halved') == 2
  assert 'retry halved in 0 s: killed by SIGKILL' in out
  [workdir] = tmp_path.glob('trials/halved-*')
  fake_trainer.check_gang(workdir, 2)
  log = (workdir / 'log.txt').read_text()
  assert 'resumed from step' in log
  [record] = records.read(tmp_path / 'records.jsonl')
  assert record.status == 'complete'


def test_trials_become_one_array_and_are_requeued_when_preempted(
  bench, tmp_path, slurm, monkeypatch
):
  monkeypatch.setenv('FAKE_STEP_S', '0.1')
  sweep_dir = tmp_path / 'd'
  launcher = bench.start(
    bench.named('one', 'two'), sweep_dir, '--engine=slurm',
    '--slurm=timeout_min=30,partition=night',
  )  # fmt: skip
  preempt = _pids_of_tasks_under_way(sweep_dir, slurm, count=2)
  script = (slurm / 'job-100').read_text()
  assert '#SBATCH --array=0-1%2' in script
  assert '#SBATCH --partition=night' in script
  assert '#SBATCH --signal=USR2@90' in script
  os.kill(preempt, signal.SIGUSR2)
  assert launcher.wait(120) == 0, launcher.communicate()[0]
  assert _statuses(sweep_dir) == {'one': 'complete', 'two': 'complete'}
  # Started twice by Slurm, once by the launcher: nothing was retried.
  assert sorted(_attempts(sweep_dir).values()) == [1, 2]
  logs = [p.read_text() for p in sweep_dir.glob('trials/*/log.txt')]
  assert all('attempt 2' not in log for log in logs)
  [resumed] = [log for log in logs if 'stopped by SIGTERM, saved' in log]
  assert 'resumed from step' in resumed
  assert len(list(slurm.glob('job-*'))) == 1


def _pids_of_tasks_under_way(sweep_dir, slurm, count):
  """Waits until all trials train; the submitit process of one of them."""
  deadline = time.monotonic() + 90
  while len(list(sweep_dir.glob('trials/*/progress.json'))) < count:
    assert time.monotonic() < deadline
    time.sleep(0.05)
  shell = _state_of(slurm, '100_0')['pid']
  # bash became srun, which became submitit, or started it.
  children = pathlib.Path(f'/proc/{shell}/task/{shell}/children').read_text()
  cmdline = pathlib.Path(f'/proc/{shell}/cmdline').read_text()
  return shell if 'submitit' in cmdline else int(children.split()[0])


def _state_of(slurm, name):
  return json.loads((slurm / f'state-{name}').read_text())


def _engine(**values):
  given = {'policy': policy.Policy(), 'sweep_dir': pathlib.Path('d'), **values}
  return slurm_engine.SlurmEngine.from_options(options.Options(**given))


def test_dry_run_prints_the_sbatch_file(bench, tmp_path, capsys):
  sweep_dir = tmp_path / 'd'
  assert bench.run(
    bench.named('one', 'two'), sweep_dir, '--engine=slurm', '--dry_run',
    '--processes=4',
    '--slurm=timeout_min=240,mem_gb=64,gpus_per_node=8,setup=module load a;b',
  ) == 0  # fmt: skip
  out = capsys.readouterr().out
  for line in (
    '#SBATCH --array=0-1%2', '#SBATCH --time=240', '#SBATCH --mem=64GB',
    '#SBATCH --gpus-per-node=8', '#SBATCH --nodes=4',
    '#SBATCH --ntasks-per-node=1', 'module load a', 'b', '#!/bin/bash',
  ):  # fmt: skip
    assert line in out.splitlines()
  assert 'srun --unbuffered' in out
  assert not sweep_dir.exists()


def test_bad_parameters_are_refused_before_anything_is_written():
  with pytest.raises(errors.ConfigError, match='must multiply to'):
    _engine(slurm={'nodes': '3'}, processes=4)
  with pytest.raises(errors.ConfigError, match=r'--slurm: .*partitoin'):
    _engine(slurm={'partitoin': 'x'})


def test_no_slurm_says_what_to_do(bench, tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', '/usr/bin/nowhere')
  with pytest.raises(errors.LaunchError, match='login node'):
    bench.run(bench.named('one'), tmp_path / 'd', '--engine=slurm')

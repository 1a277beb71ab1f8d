"""The launcher as a process: killed, told to stop, started twice."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from varjax import errors, records
from varjax.launch import local, lock
from varjax.tools import status

_TRIALS = ('one', 'two', 'three', 'four')
_PATIENCE_S = 60


@pytest.fixture(autouse=True)
def _slow_steps(monkeypatch):
  monkeypatch.setenv('FAKE_STEP_S', '0.03')


@pytest.fixture(scope='module')
def undisturbed(bench, tmp_path_factory):
  sweep_dir = tmp_path_factory.mktemp('undisturbed')
  assert bench.run(bench.named(*_TRIALS), sweep_dir) == 0
  return _table(sweep_dir)


def _table(sweep_dir):
  return [
    (r.run_id, r.name, r.status, r.steps, r.val_loss_nats_per_token)
    for r in records.read(sweep_dir / 'records.jsonl')
  ]


def _wait(condition, launcher=None):
  deadline = time.monotonic() + _PATIENCE_S
  while not condition():
    assert time.monotonic() < deadline, 'nothing happened'
    if launcher is not None:
      assert launcher.poll() is None, launcher.communicate()[0]
    time.sleep(0.01)


def _is_alive(pid_file: pathlib.Path) -> bool:
  stat = pathlib.Path('/proc') / pid_file.read_text() / 'stat'
  try:
    return stat.read_text().rpartition(')')[2].split()[0] not in 'ZX'
  except (FileNotFoundError, ProcessLookupError):
    return False


def _first_trial_is_under_way(sweep_dir):
  return any(sweep_dir.glob('trials/*/progress.json'))


def _a_record_was_left_but_not_merged(sweep_dir):
  return any(sweep_dir.glob('trials/*/records.jsonl'))


def _two_trials_are_merged(sweep_dir):
  path = sweep_dir / 'records.jsonl'
  return path.is_file() and len(records.read(path)) >= 2


@pytest.mark.parametrize(
  ('moment', 'parallel'),
  [
    (_first_trial_is_under_way, 2),
    (_a_record_was_left_but_not_merged, 1),
    (_two_trials_are_merged, 2),
  ],
)
def test_kill_9_and_again_gives_the_same_table(
  bench, tmp_path, undisturbed, moment, parallel, capsys
):
  file = bench.named(*_TRIALS)
  option = f'--parallel={parallel}'
  launcher = bench.start(file, tmp_path, option)
  _wait(lambda: moment(tmp_path), launcher)
  launcher.kill()
  launcher.communicate()
  pids = list(tmp_path.glob('trials/*/pid'))
  _wait(lambda: not any(_is_alive(pid) for pid in pids))
  assert len(_merged(tmp_path)) < len(_TRIALS)
  capsys.readouterr()
  assert bench.run(file, tmp_path, option) == 0
  assert capsys.readouterr().out.startswith(
    f'the launcher before this one (process {launcher.pid}) ended without '
  )
  assert _table(tmp_path) == undisturbed
  logs = [p.read_text() for p in tmp_path.glob('trials/*/log.txt')]
  if moment is _first_trial_is_under_way:
    assert any('resumed from step' in text for text in logs)


def _merged(sweep_dir):
  path = sweep_dir / 'records.jsonl'
  return _table(sweep_dir) if path.is_file() else []


def test_sigterm_reaches_the_trials_which_save_and_resume(
  bench, tmp_path, undisturbed, capsys, monkeypatch
):
  file = bench.named(*_TRIALS)
  # Both must still run when the second has begun, on a busy machine too.
  monkeypatch.setenv('FAKE_STEP_S', '0.5')
  launcher = bench.start(file, tmp_path, '--parallel=2')
  _wait(lambda: len(list(tmp_path.glob('trials/*/progress.json'))) == 2)
  assert status.main([str(tmp_path)]) == 0
  shown = capsys.readouterr().out
  assert 'sweep ladder (running), 4 trials: 2 running, 2 pending' in shown
  launcher.send_signal(signal.SIGTERM)
  out = launcher.communicate(timeout=_PATIENCE_S)[0]
  assert launcher.returncode == 128 + signal.SIGTERM, out
  assert out.count('stopped ') >= 2
  logs = [p.read_text() for p in tmp_path.glob('trials/*/log.txt')]
  assert len(logs) == 2
  assert all('stopped by SIGTERM, saved' in text for text in logs)
  assert status.main([str(tmp_path)]) == 0
  shown = capsys.readouterr().out
  assert 'not running), 4 trials: 2 stopped, 2 pending' in shown
  assert _merged(tmp_path) == []
  monkeypatch.setenv('FAKE_STEP_S', '0.03')
  assert bench.run(file, tmp_path) == 0
  assert _table(tmp_path) == undisturbed


def test_a_second_signal_kills_trials_that_do_not_stop(
  bench, tmp_path, monkeypatch
):
  monkeypatch.setenv('FAKE_STEP_S', '30')
  launcher = bench.start(bench.named('one'), tmp_path)
  _wait(lambda: any(tmp_path.glob('trials/*/pid')), launcher)
  [pid] = tmp_path.glob('trials/*/pid')
  _wait(lambda: pid.read_text(), launcher)
  time.sleep(0.3)  # the trial installs its handler just after
  launcher.send_signal(signal.SIGTERM)
  time.sleep(0.3)
  assert launcher.poll() is None
  launcher.send_signal(signal.SIGTERM)
  out = launcher.communicate(timeout=_PATIENCE_S)[0]
  assert launcher.returncode == 128 + signal.SIGTERM, out
  assert not _is_alive(pid)


def test_nohup_is_respected(bench, tmp_path):
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    launcher = bench.start(bench.named('one'), tmp_path)
  finally:
    signal.signal(signal.SIGHUP, before)
  _wait(lambda: any(tmp_path.glob('trials/*/progress.json')), launcher)
  launcher.send_signal(signal.SIGHUP)
  out = launcher.communicate(timeout=_PATIENCE_S)[0]
  assert launcher.returncode == 0, out


def test_two_launchers_on_one_directory_refuse(
  bench, tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv('FAKE_STEP_S', '30')
  file = bench.named(*_TRIALS)
  first = bench.start(file, tmp_path)
  _wait(lambda: any(tmp_path.glob('trials/*/pid')), first)
  with pytest.raises(errors.LaunchError) as refused:
    bench.run(file, tmp_path)
  assert str(refused.value) == (
    f'{tmp_path}: another launcher (process {first.pid}) runs this sweep; '
    'wait for it, stop it, or use another --workdir'
  )
  assert capsys.readouterr().out == ''
  first.kill()
  first.communicate()
  with lock.held(tmp_path):
    pass


def test_a_trial_whose_launcher_is_gone_does_not_start(tmp_path):
  mark = tmp_path / 'started'
  command = [sys.executable, '-I', '-S', str(local._CHILD)]
  touch = [sys.executable, '-c', f'open({str(mark)!r}, "w")']
  gone = subprocess.run([*command, '1', '', *touch])
  assert gone.returncode == 1
  assert not mark.exists()
  alive = subprocess.run([*command, str(os.getpid()), '', *touch])
  assert alive.returncode == 0
  assert mark.exists()

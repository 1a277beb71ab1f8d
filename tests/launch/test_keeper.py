"""Keepers: one writer per workdir, no orphans, endings that tell."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import fake_host
import pytest

from varjax.launch import drive, keeper, lock, remote

_PATIENCE_S = 30


@pytest.fixture
def beating(tmp_path):
  """A sweep directory whose launcher is alive; set the event to kill it."""
  dead = threading.Event()

  def beat():
    count = 0
    while not dead.wait(0.1):
      count += 1
      (tmp_path / lock.BEAT).write_text(f'launcher {count}\n')

  thread = threading.Thread(target=beat)
  thread.start()
  yield tmp_path, dead
  dead.set()
  thread.join()


def _order(sweep_dir, *command, processes=1, **values):
  trial = fake_host.trial(sweep_dir / 'trials', 'one')
  object.__setattr__(trial, 'command', command)
  return remote.order(
    trial, sweep_dir, processes=processes, environments=[{}] * processes,
    **values,
  )  # fmt: skip


def _start(ordered, process=0):
  return subprocess.Popen(ordered.commands[process])


def _python(code):
  return sys.executable, '-I', '-S', '-c', code


_SLEEP = _python('import time; print("up", flush=True); time.sleep(600)')


def _wait(condition):
  deadline = time.monotonic() + _PATIENCE_S
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def _log(ordered):
  path = ordered.trial.log
  return path.read_text() if path.is_file() else ''


def test_endings_tell_exit_codes_signals_and_what_could_not_start(beating):
  sweep_dir, _ = beating
  cases = [
    (_python('raise SystemExit(3)'), 3, 3),
    (_python('import os; os.kill(os.getpid(), 9)'), 137, -9),
    (_python('pass'), 0, 0),
    # child.py is the one that cannot find it, as with the local engine.
    (('/no/such/program',), 1, 1),
  ]
  for command, status, code in cases:
    ordered = _order(sweep_dir, *command)
    assert remote.endings(ordered) == [None]
    assert _start(ordered).wait(_PATIENCE_S) == status
    assert remote.endings(ordered) == [drive.Ending(code)]
  assert 'No such file' in _log(ordered)


def test_a_stop_reaches_the_trial_which_saves(beating):
  sweep_dir, _ = beating
  code = (
    'import signal, sys, time\n'
    'signal.signal(15, lambda *_: sys.exit(143))\n'
    'print("up", flush=True)\ntime.sleep(600)'
  )
  ordered = _order(sweep_dir, *_python(code))
  running = _start(ordered)
  _wait(lambda: 'up' in _log(ordered))
  running.terminate()
  assert running.wait(_PATIENCE_S) == 143
  assert remote.endings(ordered) == [drive.Ending(143)]


def test_a_new_attempt_ends_the_old_one_before_it_writes(beating):
  """As when a node that was given up for lost is still there."""
  sweep_dir, _ = beating
  first = _order(sweep_dir, *_SLEEP)
  lost = _start(first)
  _wait(lambda: 'up' in _log(first))
  _wait((first.trial.workdir / 'keeper-0.json').is_file)
  code = (
    'import os, pathlib\n'
    f'beat = pathlib.Path({str(first.trial.workdir)!r}) / "keeper-0.json"\n'
    'print("alone", __import__("json").loads(beat.read_text())["token"])'
  )
  second = _order(sweep_dir, *_python(code))
  running = _start(second)
  assert lost.wait(_PATIENCE_S) == 1
  assert running.wait(_PATIENCE_S) == 0
  assert remote.endings(second) == [drive.Ending(0)]
  assert f'alone {second.token}' in _log(second)


def test_a_keeper_that_is_gone_without_a_word_is_waited_out(
  beating, monkeypatch
):
  sweep_dir, _ = beating
  ordered = _order(sweep_dir, *_python('pass'))
  keeper.write_json(
    ordered.trial.workdir / 'keeper-0.json', {'token': 'old', 'beat': 7}
  )
  monkeypatch.setattr(keeper, 'OTHER_IS_DEAD_AFTER_S', 0.5)
  file = keeper.orders_file(ordered.trial.workdir, 0)
  before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  began = time.monotonic()
  try:
    assert keeper.main([str(file)]) == 0
  finally:
    for number, handler in zip(
      (signal.SIGTERM, signal.SIGINT), before, strict=True
    ):
      signal.signal(number, handler)
  assert time.monotonic() - began >= 0.5


def test_a_trial_does_not_outlive_its_launcher(beating, monkeypatch):
  sweep_dir, dead = beating
  monkeypatch.setattr(remote, 'ORPHAN_S', 1.0)
  ordered = _order(sweep_dir, *_SLEEP)
  running = _start(ordered)
  _wait(lambda: 'up' in _log(ordered))
  dead.set()
  assert running.wait(_PATIENCE_S) == 1
  [ending] = remote.endings(ordered)
  assert ending.exit_code is None
  assert 'launcher has given no sign of life' in ending.why


def test_a_trial_does_not_outlive_its_keeper(beating):
  sweep_dir, _ = beating
  code = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'
  ordered = _order(sweep_dir, *_python(code))
  running = _start(ordered)
  _wait(lambda: _log(ordered).endswith('\n'))
  running.kill()
  running.wait()
  stat = pathlib.Path('/proc') / _log(ordered).strip() / 'stat'

  def gone():
    try:
      return stat.read_text().rpartition(')')[2].split()[0] in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
      return True

  _wait(gone)
  assert remote.endings(ordered) == [None]


def test_a_folder_that_a_machine_does_not_see_is_named(beating, monkeypatch):
  sweep_dir, _ = beating
  monkeypatch.setattr(remote.os, 'getcwd', lambda: '/only/on/the/launcher')
  ordered = _order(sweep_dir, *_python('pass'))
  assert _start(ordered).wait(_PATIENCE_S) == 1
  [ending] = remote.endings(ordered)
  assert ending.why.startswith('/only/on/the/launcher is not on ')


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='needs two cores')
def test_cores_of_a_machine_are_shared_out(tmp_path, monkeypatch):
  monkeypatch.setattr(keeper.tempfile, 'gettempdir', lambda: str(tmp_path))
  every = sorted(os.sched_getaffinity(0))
  with contextlib.ExitStack() as one:
    first = keeper.claim_cores(1, one)
    with contextlib.ExitStack() as two:
      second = keeper.claim_cores(len(every) - 1, two)
      assert sorted(first + second) == every
      # None is free: as many, but shared.
      with contextlib.ExitStack() as three:
        assert len(keeper.claim_cores(1, three)) == 1
  with contextlib.ExitStack() as stack:
    assert keeper.claim_cores(1, stack) == first
    assert keeper.claim_cores(0, stack) == []
    assert keeper.claim_cores(len(every) + 1, stack) == []


def test_the_first_cause_of_a_trial_of_several_processes_counts():
  ending = drive.Ending
  assert remote.worst([ending(-9), ending(2)]) == ending(2)
  assert remote.worst([ending(143), ending(1)]) == ending(1)
  assert remote.worst([ending(None, 'x'), ending(143)]) == ending(None, 'x')
  assert remote.worst([ending(143), ending(-9)]) == ending(-9)
  assert remote.worst([ending(75), ending(1)]) == ending(1)
  assert remote.worst([ending(143), ending(75)]) == ending(75)
  assert remote.worst([ending(75), ending(0)]) == ending(75)
  assert remote.worst([ending(0), ending(-9)]) == ending(-9)
  assert remote.worst([ending(0), ending(0)]) == ending(0)


def test_orders_hold_what_the_trial_needs(beating):
  sweep_dir, _ = beating
  ordered = _order(sweep_dir, 'varjax', 'train', processes=2, cores=3)
  [one, two] = [
    json.loads(keeper.orders_file(ordered.trial.workdir, i).read_text())
    for i in range(2)
  ]
  assert one['token'] == two['token'] == ordered.token
  assert (one['process'], two['process']) == (0, 1)
  assert one['log'] != two['log']
  assert one['cores'] == 3
  assert one['command'] == ['varjax', 'train']

"""One launcher per sweep directory: dead ones, other machines, clocks."""

import dataclasses
import json
import os
import time

import pytest

from varjax import errors
from varjax.launch import lock


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setattr(lock, 'BEAT_EVERY_S', 0.05)
  monkeypatch.setattr(lock, '_DEAD_AFTER_S', 0.5)


def _left_by_another_machine(sweep_dir, beat='t0 1'):
  owner = lock.Owner('elsewhere', 'boot', 4711, 't0')
  (sweep_dir / lock.LOCK).write_text(json.dumps(dataclasses.asdict(owner)))
  (sweep_dir / lock.BEAT).write_text(beat + '\n')


def test_the_lock_is_let_go_in_order(tmp_path):
  with lock.held(tmp_path) as hold:
    assert hold.owner.pid == os.getpid()
    assert hold.died is None
    assert hold.owner.is_here
    assert lock.is_held(tmp_path)
    refused = pytest.raises(
      errors.LaunchError, match=rf'process {os.getpid()}\)'
    )
    with refused, lock.held(tmp_path):
      pass
    assert lock.is_held(tmp_path)
  assert not lock.is_held(tmp_path)
  assert (tmp_path / lock.LOCK).read_text() == ''


def test_an_owner_of_another_machine_that_beats_is_alive(tmp_path, monkeypatch):
  """Its clock is years off; only that its beat changes counts."""
  _left_by_another_machine(tmp_path)
  os.utime(tmp_path / lock.BEAT, (1.0, 1.0))
  beats = iter(range(2, 10_000))

  def sleep_and_beat(seconds):
    del seconds
    (tmp_path / lock.BEAT).write_text(f't0 {next(beats)}\n')
    os.utime(tmp_path / lock.BEAT, (1.0, 1.0))

  monkeypatch.setattr(lock.time, 'sleep', sleep_and_beat)
  with pytest.raises(errors.LaunchError) as refused, lock.held(tmp_path):
    pass
  assert str(refused.value) == (
    f'{tmp_path}: another launcher (process 4711 on elsewhere) runs this '
    'sweep; wait for it, stop it, or use another --workdir'
  )


def test_an_owner_of_another_machine_that_is_silent_is_dead(tmp_path):
  _left_by_another_machine(tmp_path)
  # Its last beat lies in the future: its clock was wrong.
  ahead = time.time() + 1e6
  os.utime(tmp_path / lock.BEAT, (ahead, ahead))
  assert not lock.is_held(tmp_path)
  began = time.monotonic()
  with lock.held(tmp_path) as hold:
    assert hold.owner.is_here
    assert str(hold.died) == 'process 4711 on elsewhere'
  assert time.monotonic() - began >= 0.5


def test_while_it_waits_for_another_machine_both_are_named(
  tmp_path, monkeypatch
):
  _left_by_another_machine(tmp_path)
  said = []

  def second_launcher(seconds):
    del seconds
    if not said:
      said.append('')
      with pytest.raises(errors.LaunchError) as refused:
        lock.held(tmp_path).__enter__()
      said.append(str(refused.value))
      said.append((tmp_path / lock.LOCK).read_text())

  monkeypatch.setattr(lock.time, 'sleep', second_launcher)
  with lock.held(tmp_path) as hold:
    assert hold.died.host == 'elsewhere'
  assert f'another launcher (process {os.getpid()}) runs' in said[1]
  # Killed at that moment, it must not hide the other from the next one.
  (tmp_path / lock.LOCK).write_text(said[2])
  (tmp_path / lock.BEAT).write_text('t0 1')
  with lock.held(tmp_path) as hold:
    assert hold.died.host == 'elsewhere'


def test_a_dead_owner_of_this_machine_costs_no_wait(tmp_path, monkeypatch):
  here = lock._this_machine()
  owner = lock.Owner(*here, pid=2**22 + 1, token='t0')
  (tmp_path / lock.LOCK).write_text(json.dumps(dataclasses.asdict(owner)))
  (tmp_path / lock.BEAT).write_text('t0 1\n')
  monkeypatch.setattr(lock, '_DEAD_AFTER_S', 3600.0)
  with lock.held(tmp_path) as hold:
    assert hold.died == owner
  with lock.held(tmp_path) as hold:
    assert hold.died is None


def test_a_torn_lock_file_does_not_stand_in_the_way(tmp_path):
  (tmp_path / lock.LOCK).write_text('{"host": "elsew')
  with lock.held(tmp_path):
    pass


def test_a_launcher_that_was_taken_for_dead_notices(tmp_path):
  with lock.held(tmp_path) as hold:
    hold.check()
    time.sleep(0.02)
    deadline = time.monotonic() + 10
    while not hold._robber and time.monotonic() < deadline:
      (tmp_path / lock.BEAT).write_text('robber 1\n')
      time.sleep(0.02)
    with pytest.raises(errors.LaunchError, match='another one has taken over'):
      hold.check()

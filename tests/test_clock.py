import time

import pytest

from varjax import clock, progress


def test_phases_and_restarts_add_up(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  first = clock.Clock()
  with first.phase('step'):
    now[0] += 6
  with first.phase('data'):
    now[0] += 2
  first.idle_s += 0.5  # the devices were busy for the rest
  state = first.state()
  now[0] += 3  # killed three seconds after the checkpoint
  second = clock.Clock()
  with second.phase('restart'):
    now[0] += 4
    second.restore(state, reached_s=first.wall_s - 4)
  assert second.restarts == 1
  assert second.seconds['restart'] == pytest.approx(3 + 4)
  assert second.wall_s == pytest.approx(8 + 3 + 4)
  assert second.goodput == pytest.approx(6 / 15)
  assert second.data_stall == pytest.approx(0.5 / 8)
  # A checkpoint from before idling was measured: at most all of 'data'.
  third = clock.Clock()
  third.restore({k: v for k, v in state.items() if k != 'idle_s'})
  assert third.data_stall == pytest.approx(2 / 8)


def test_a_wall_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch):
  times = iter([2e9, 1e9, 5e8, 4e8, 3e8])
  monkeypatch.setattr(time, 'time', lambda: next(times))
  mine = clock.Clock()
  with mine.phase('step'):
    pass
  bar = progress.Progress(
    tmp_path, total_steps=3, batch_size=1, wall_s=lambda: mine.wall_s
  )
  bar.update(1, 0.5)
  bar.update(2, 0.5)
  bar.close()
  assert mine.wall_s >= mine.seconds['step'] >= 0
  assert 0 <= mine.goodput <= 1
  reached = progress.reached_s(tmp_path)
  assert 0 <= reached <= mine.wall_s
  # An account that ends before the checkpoint, on another host's clock.
  other = clock.Clock()
  other.restore(mine.state() | {'wall_s': reached + 50}, reached)
  assert other.seconds['restart'] == 0
  assert other.wall_s >= reached + 50


def test_what_was_reached_is_unknown_without_a_file(tmp_path):
  assert progress.reached_s(tmp_path) == 0
  (tmp_path / progress.FILE).write_text('[1')
  assert progress.reached_s(tmp_path) == 0

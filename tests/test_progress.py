import io
import json

import pytest

from varjax import progress


class Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


def _read(folder):
  return json.loads((folder / 'progress.json').read_text())


def _start(folder, stream, clock, **kwargs):
  return progress.Progress(
    folder, total_steps=100, batch_size=8, stream=stream, clock=clock, **kwargs
  )


def test_rate_and_time_left(tmp_path):
  clock, stream = Clock(), io.StringIO()
  found = _start(tmp_path, stream, clock, start_step=10)
  for step in range(11, 21):
    clock.now += 2.0
    found.update(step, loss=5.0 - step / 10)
  values = _read(tmp_path)
  assert values['step'] == 20
  assert values['total_steps'] == 100
  assert values['loss'] == pytest.approx(3.0)
  assert values['images_per_s'] == pytest.approx(4.0)
  assert values['eta_s'] == pytest.approx(160.0)
  assert values['time'] > 1e9


def test_a_slow_first_step_leaves_the_rate(tmp_path):
  clock = Clock()
  found = _start(tmp_path, io.StringIO(), clock)
  clock.now += 60.0
  found.update(1)
  for step in range(2, 60):
    clock.now += 1.0
    found.update(step)
  assert _read(tmp_path)['images_per_s'] == pytest.approx(8.0)


def test_file_is_rewritten_at_most_every_second(tmp_path):
  clock = Clock()
  found = _start(tmp_path, io.StringIO(), clock)
  found.update(1, 2.0)
  for step in range(2, 8):
    clock.now += 0.1
    found.update(step)
  assert _read(tmp_path)['step'] == 1
  clock.now += 0.5
  found.update(8)
  assert _read(tmp_path)['step'] == 8
  assert _read(tmp_path)['loss'] == 2.0
  found.update(9, float('nan'))
  found.close()
  assert _read(tmp_path)['step'] == 9
  assert _read(tmp_path)['loss'] is None
  assert {p.name for p in tmp_path.iterdir()} == {'progress.json'}


def test_lines_without_a_terminal(tmp_path):
  clock, stream = Clock(), io.StringIO()
  found = _start(tmp_path, stream, clock, line_every_s=30.0)
  for step in range(1, 101):
    clock.now += 1.0
    found.update(step, 1.5)
  found.close()
  lines = stream.getvalue().splitlines()
  assert len(lines) == 4
  assert lines[0] == 'step 30/100, 1m10s left, loss 1.5, 8 images/s'
  assert lines[-1].startswith('step 100/100, 0s left')


def test_a_bar_on_a_terminal(tmp_path):
  clock, stream = Clock(), Terminal()
  found = _start(tmp_path, stream, clock)
  for step in range(1, 101):
    clock.now += 1.0
    found.update(step, 1.5)
  found.close()
  assert '100/100' in stream.getvalue()
  assert 'loss 1.5' in stream.getvalue()


def test_silent_when_disabled(tmp_path):
  stream = Terminal()
  found = _start(tmp_path, stream, Clock(), enabled=False)
  found.update(1, 1.0)
  found.close()
  assert stream.getvalue() == ''
  assert list(tmp_path.iterdir()) == []

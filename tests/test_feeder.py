"""Batches ahead of the loop: order, state, lateness, and the end of it."""

import contextlib
import itertools
import threading
import types

import jax
import numpy as np
import pytest

from varjax import errors, sharding
from varjax import spec as specs
from varjax.data.watchdog import Watchdog
from varjax.feeder import Feeder

PATIENT = Watchdog(60.0, 'x')
DEPTHS = (0, 1, 3)


class Numbers:
  """A source of batches full of 0, 1, ...; each waits for `gate(number)`."""

  def __init__(self, stop=None, gate=lambda _: None):
    self.given, self.closed, self.thread = 0, False, None
    self._stop, self._gate = stop, gate

  def __next__(self):
    self.thread = threading.current_thread()
    self._gate(self.given)
    if self.given == self._stop:
      raise StopIteration
    self.given += 1
    return {'label': np.full(8, self.given - 1, np.int32)}

  def close(self):
    self.closed = True

  def state(self):
    return f'{self.given} given'


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(specs.MeshSpec())


@pytest.fixture
def feed(mesh):
  """Makes feeders, and closes them."""
  with contextlib.ExitStack() as stack:

    def make(source, depth, watchdog=PATIENT, **kwargs):
      feeder = Feeder(source, mesh, watchdog, depth, **kwargs)
      stack.callback(feeder.close)
      return feeder

    yield make


def _number(batch):
  (value,) = np.unique(np.asarray(batch['label']))
  return int(value)


@pytest.mark.parametrize('depth', DEPTHS)
def test_batches_come_in_order_and_on_the_mesh(feed, mesh, depth):
  feeder = feed(Numbers(), depth)
  for number in range(6):
    batch = feeder.take()
    assert _number(batch) == number
    assert batch['label'].sharding == sharding.batch_sharding(mesh)


@pytest.mark.parametrize('depth', DEPTHS)
def test_each_ends_with_the_source(feed, depth):
  feeder = feed(Numbers(stop=4), depth)
  found = [_number(batch) for batch in feeder.each(lambda: False)]
  assert found == [0, 1, 2, 3]


def test_a_cpu_reads_nothing_ahead_by_itself(feed):
  source = Numbers()
  feeder = feed(source, -1)
  for number in range(3):
    assert source.given == number
    assert _number(feeder.take()) == number


def test_no_more_than_depth_are_read_ahead(feed):
  most = []
  arrived = {number: threading.Event() for number in range(12)}

  def gate(number):
    most.append(number - taken)
    arrived[number].set()

  taken = 0
  feeder = feed(Numbers(gate=gate), 3)
  for taken in range(8):
    # Filled up, without being asked for.
    assert arrived[taken + 2].wait(60)
    assert _number(feeder.take()) == taken
  # 2, and one more while a batch is handed over that is not counted yet.
  assert max(most) <= 3


@pytest.mark.parametrize('depth', DEPTHS)
def test_the_state_is_that_of_what_was_taken(feed, depth):
  source = Numbers()
  feeder = feed(source, depth, state=source.state)
  assert feeder.get_state() == '0 given'
  for number in range(4):
    feeder.take()
    assert feeder.get_state() == f'{number + 1} given'


# --- lateness ----------------------------------------------------------------


def test_a_batch_that_is_there_was_not_late(feed):
  second = threading.Event()
  feeder = feed(Numbers(gate=lambda number: number and second.set()), 2)
  # The thread reads the second when the first is on the devices.
  assert second.wait(60)

  def nobody_asks():
    raise AssertionError

  feeder.take(nobody_asks)
  assert feeder.idle_s == 0


class Devices:
  """Busy for as many questions as `busy`; the batch comes at question `due`."""

  def __init__(self, busy, due):
    self.asked, self._busy, self._due = 0, busy, due
    self.came = threading.Event()

  def __call__(self):
    self.asked += 1
    if self.asked == self._due:
      self.came.set()
    return self.asked <= self._busy

  def gate(self, _):
    assert self.came.wait(60)


def test_a_late_batch_costs_nothing_while_the_devices_work(feed):
  devices = Devices(busy=10**9, due=5)
  feeder = feed(Numbers(gate=devices.gate), 2)
  assert _number(feeder.take(devices)) == 0
  assert devices.asked >= 5
  assert feeder.idle_s == 0


@pytest.mark.parametrize(('busy', 'due'), [(0, 1), (3, 4)])
def test_idling_counts_from_the_end_of_the_work(feed, busy, due):
  """Idle when the loop asks, or from the fourth look on."""
  devices = Devices(busy, due)
  feeder = feed(Numbers(gate=devices.gate), 2)
  assert _number(feeder.take(devices)) == 0
  assert feeder.idle_s > 0
  devices.came.set()
  assert devices.asked == due  # those who are idle are not asked again


def test_idling_is_measured_by_the_clock(feed, monkeypatch):
  """Busy at the looks at 1 and 2 s, idle at 3 s; the batch comes at 7 s."""
  now, times = [0.0], iter([1.0, 2.0, 3.0, 7.0])
  came = threading.Event()
  feeder = feed(Numbers(gate=lambda _: came.wait(60)), 1)
  arrived = feeder._arrived

  class Looks:
    put, get_nowait = arrived.put, arrived.get_nowait

    def get(self, timeout):
      assert timeout > 0
      now[0] = next(times)
      if now[0] < 7:
        return arrived.get(block=False)
      came.set()
      return arrived.get(timeout=60)

  monkeypatch.setattr(feeder, '_arrived', Looks())
  clock = types.SimpleNamespace(monotonic=lambda: now[0])
  monkeypatch.setattr('varjax.feeder.time', clock)
  feeder.take(lambda: now[0] < 3)
  assert feeder.idle_s == 5  # since it was last seen busy, at 2 s


@pytest.mark.parametrize(('busy', 'idle'), [(True, False), (False, True)])
def test_without_a_thread_all_of_a_late_batch_may_count(feed, busy, idle):
  feeder = feed(Numbers(), 0)
  feeder.take(lambda: busy)
  assert (feeder.idle_s > 0) == idle


# --- the end -----------------------------------------------------------------


@pytest.mark.parametrize('depth', DEPTHS)
def test_a_source_that_hangs_is_named(feed, depth):
  """After the batches that came before."""
  hang = threading.Event()
  source = Numbers(gate=lambda number: number == 2 and hang.wait(60))
  feeder = feed(source, depth, Watchdog(0.2, 'codes_dir=/mnt/codes'))
  assert [_number(feeder.take()) for _ in range(2)] == [0, 1]
  with pytest.raises(errors.Stalled, match='codes_dir=/mnt/codes: gave no b'):
    feeder.take(lambda: True)
  feeder.close()  # does not wait for what hangs, nor closes it
  assert not source.closed
  hang.set()
  source.thread.join(60)
  assert source.closed == (depth > 0)


@pytest.mark.parametrize('depth', DEPTHS)
def test_a_source_that_hangs_when_it_is_closed_is_left(
  feed, depth, monkeypatch
):
  """As the threads of a pipeline whose disk hangs, with batches at hand."""
  monkeypatch.setattr('varjax.feeder._JOIN_S', 0.1)
  hang, closing = threading.Event(), threading.Event()
  source = Numbers()

  def close():
    closing.set()
    assert hang.wait(60)

  monkeypatch.setattr(source, 'close', close)
  feeder = feed(source, depth)
  feeder.take()
  feeder.close()
  assert closing.wait(60)
  hang.set()
  feeder._thread.join(60)


@pytest.mark.parametrize('depth', DEPTHS)
def test_an_error_comes_in_its_turn(feed, depth):
  def gate(number):
    if number == 2:
      raise errors.DataError('three.png: not a readable image')

  feeder = feed(Numbers(gate=gate), depth)
  assert [_number(feeder.take()) for _ in range(2)] == [0, 1]
  with pytest.raises(errors.DataError, match=r'three\.png'):
    feeder.take()


@pytest.mark.parametrize('depth', DEPTHS)
def test_rows_that_do_not_divide_are_refused_in_the_loop(feed, depth):
  class Odd(Numbers):
    def __next__(self):
      return {'label': np.zeros(9, np.int32)}

  assert jax.device_count() == 8
  with pytest.raises(errors.ConfigError, match='multiple of 8'):
    feed(Odd(), depth).take()


@pytest.mark.parametrize('depth', DEPTHS)
@pytest.mark.parametrize('taken', [0, 1, 4])
def test_closing_ends_the_thread_and_the_source(mesh, depth, taken):
  before = set(threading.enumerate())
  source = Numbers()
  feeder = Feeder(source, mesh, PATIENT, depth)
  for _ in range(taken):
    feeder.take()
  feeder.close()
  assert source.closed
  assert not [
    thread for thread in set(threading.enumerate()) - before
    if thread.name == 'feeder'
  ]  # fmt: skip


def test_waiting_for_ever_is_possible(feed):
  feeder = feed(Numbers(), 2, Watchdog(0.0, 'x'))
  for number in itertools.islice(itertools.count(), 5):
    assert _number(feeder.take()) == number

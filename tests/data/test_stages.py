"""Stages that run at the same time; nothing here measures time."""

import threading

from fake_images import CODE_SPEC, DATA_SPEC, FakeImages, fake_encode
import numpy as np
import pytest

from varjax.data import encode, shards, stages

_LONG = 30  # Seconds after which a stage that should go on has not.


def _encode(encode_fn, source, folder, **options):
  return encode.encode_split(
    encode_fn, source, folder, tokenizer_id='tok', code_spec=CODE_SPEC,
    data_spec=DATA_SPEC, split='train', batch_size=4, shard_images=8,
    **options,
  )  # fmt: skip


def test_items_come_in_order_and_errors_behind_them():
  def items():
    yield from range(5)
    raise RuntimeError('lost')

  reader, found = stages.ahead(items(), 2), []
  with pytest.raises(RuntimeError, match='lost'):
    found.extend(reader)
  assert found == [0, 1, 2, 3, 4]
  assert list(stages.ahead(iter('abc'), 1)) == ['a', 'b', 'c']
  assert list(stages.ahead(iter(()), 1)) == []


def test_no_more_items_are_made_than_there_is_room_for():
  made, full = [], threading.Event()

  def items():
    for index in range(10):
      made.append(index)
      if index == 4:
        full.set()
      yield index

  waits = []
  reader = stages.ahead(items(), 2, waits.append)
  assert next(reader) == 0
  assert next(reader) == 1
  # Two wait, and one more is made that there is no room for yet.
  assert full.wait(_LONG)
  assert made == [0, 1, 2, 3, 4]
  assert list(reader) == list(range(2, 10))
  assert len(waits) == 11  # The end is waited for, too.
  assert min(waits) >= 0


def test_a_reader_that_leaves_closes_what_it_read():
  closed = threading.Event()

  def items():
    try:
      yield from range(100)
    finally:
      closed.set()

  reader = stages.ahead(items(), 2)
  assert next(reader) == 0
  reader.close()
  assert closed.is_set()  # The thread has ended with it.


class _Output:
  """Codes that are ready only once the device has been given more work."""

  def __init__(self, codes, ready):
    self._codes, self._ready = codes, ready

  def __array__(self, dtype=None, copy=None):
    del dtype, copy
    assert self._ready.wait(_LONG), 'nothing was queued behind this batch'
    return self._codes


class _Counted:
  """Images that tell which of them were loaded."""

  def __init__(self, images, loaded):
    self._images, self._loaded = images, loaded

  def __len__(self):
    return len(self._images)

  def __getattr__(self, name):
    return getattr(self._images, name)

  def __getitem__(self, index):
    example = self._images[index]
    self._loaded[index].set()
    return example


def test_no_stage_of_an_encode_waits_for_another(tmp_path, monkeypatch):
  # 40 images in ten batches of four, in five shards of eight.
  loaded = [threading.Event() for _ in range(40)]
  called = [threading.Event() for _ in range(11)]
  called[10].set()  # Behind the last batch there is none.
  written = threading.Event()
  calls, waits, told = [], [], []
  real = shards.write

  def write(folder, plan, view, first, *rest):
    if first == 0:
      # The disk is slow: the device goes on, with eight batches more.
      assert called[9].wait(_LONG), 'the device waits for the disk'
    shard = real(folder, plan, view, first, *rest)
    if first == 0:
      written.set()
    return shard

  def encode_fn(images):
    number = len(calls)
    calls.append(number)
    called[number].set()
    if number < 9:
      # The device is slow: the next batch is loaded meanwhile.
      following = loaded[4 * number + 4 : 4 * number + 8]
      assert all(event.wait(_LONG) for event in following), (
        'images wait for the device'
      )
    else:
      # And what was encoded before is written.
      assert written.wait(_LONG), 'the disk waits for the device'
    return _Output(fake_encode(images), called[number + 1])

  monkeypatch.setattr(shards, 'write', write)
  manifest = _encode(
    encode_fn,
    _Counted(FakeImages(), loaded),
    tmp_path,
    progress=lambda done, total: told.append((done, total)),
    waited=waits.append,
  )
  assert calls == list(range(10))
  assert [shard.first for shard in manifest.shards] == [0, 8, 16, 24, 32]
  assert told == [(done, 40) for done in range(0, 41, 4)]
  assert len(waits) == 11
  plain = _encode(fake_encode, FakeImages(), tmp_path / 'plain')
  assert manifest == plain  # Checksums included.


def test_an_error_leaves_no_thread_behind(tmp_path):
  before = set(threading.enumerate())

  def die(images):
    raise RuntimeError(f'no {len(images)}')

  with pytest.raises(RuntimeError, match='no 4'):
    _encode(die, FakeImages(), tmp_path)
  assert set(threading.enumerate()) == before
  assert np.size(list(tmp_path.glob('train/view*'))) == 0

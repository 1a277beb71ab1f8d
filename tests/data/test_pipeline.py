"""Batches: deterministic, resumable, the same on any number of processes."""

import itertools
import time

from fake_images import CODE_SPEC, DATA_SPEC, FakeImages, fake_encode
import numpy as np
import pytest

from varjax import errors
from varjax.data import codes, encode, pipeline, preprocess
from varjax.data.resized import ResizedSource


@pytest.fixture(scope='module')
def code_source(tmp_path_factory):
  folder = tmp_path_factory.mktemp('codes')
  encode.encode_split(
    fake_encode,
    FakeImages(),
    folder,
    tokenizer_id='tok',
    code_spec=CODE_SPEC,
    data_spec=DATA_SPEC,
    split='train',
    views=3,
    batch_size=4,
    shard_images=12,
  )
  return codes.open_codes(folder, 'train')


@pytest.fixture(params=['images', 'codes'])
def source(request, code_source):
  return FakeImages() if request.param == 'images' else code_source


def _train(source, **kwargs):
  options = {'batch_size': 12, 'seed': 1, 'data_spec': DATA_SPEC, **kwargs}
  return pipeline.train_batches(source, **options)


def _take(batches, count):
  taken = list(itertools.islice(batches, count))
  if isinstance(batches, pipeline.TrainBatches):
    batches.close()
  return taken


def _assert_equal(left, right):
  assert len(left) == len(right)
  for one, other in zip(left, right, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      assert one[key].dtype == other[key].dtype
      np.testing.assert_array_equal(one[key], other[key])


def test_shapes_and_types(source):
  (batch,) = _take(_train(source), 1)
  assert batch['label'].dtype == np.int32
  assert batch['label'].shape == (12,)
  if isinstance(source, codes.CodeSource):
    assert batch.keys() == {'codes', 'label'}
    assert batch['codes'].dtype == np.int32
    assert batch['codes'].shape == (12, 5, 1)
  else:
    assert batch.keys() == {'image', 'label'}
    assert batch['image'].dtype == np.uint8
    assert batch['image'].shape == (12, 8, 8, 3)


def test_same_seed_same_batches(source):
  first = _take(_train(source), 8)
  _assert_equal(first, _take(_train(source), 8))
  other = _take(_train(source, seed=2), 8)
  assert any(
    not np.array_equal(a['label'], b['label'])
    for a, b in zip(first, other, strict=True)
  )


def test_resume_mid_epoch_gives_the_next_batch(source):
  """40 images in batches of 12: batch 3 spans two epochs."""
  whole = _take(_train(source), 12)
  for done in (0, 1, 3, 5, 10):
    interrupted = _train(source)
    _take(interrupted, done)
    assert interrupted.batches_taken == done
    state = interrupted.get_state()
    resumed = _train(source, start=state)
    assert resumed.batches_taken == done
    _assert_equal(_take(resumed, 12 - done), whole[done:])
    counted = _train(source, start=done)
    _assert_equal(_take(counted, 1), whole[done : done + 1])


def test_set_state_rewinds_a_running_iterator(source):
  batches = _train(source)
  next(batches)
  state = batches.get_state()
  ahead = [next(batches) for _ in range(4)]
  batches.set_state(state)
  _assert_equal(_take(batches, 4), ahead)


@pytest.mark.parametrize('processes', [2, 3])
def test_processes_together_make_the_same_global_batch(source, processes):
  whole = _take(_train(source), 6)
  parts = [
    _take(_train(source, process_index=i, process_count=processes), 6)
    for i in range(processes)
  ]
  joined = [
    {key: np.concatenate([part[key] for part in row]) for key in row[0]}
    for row in zip(*parts, strict=True)
  ]
  _assert_equal(joined, whole)


def test_state_resumes_on_another_number_of_processes(source):
  single = _train(source)
  _take(single, 5)
  (expected,) = _take(_train(source, start=5), 1)
  halves = [
    _take(
      _train(
        source, start=single.get_state(), process_index=i, process_count=2
      ),
      1,
    )[0]
    for i in range(2)
  ]
  joined = np.concatenate([half['label'] for half in halves])
  np.testing.assert_array_equal(joined, expected['label'])


def test_every_epoch_is_a_new_order_of_every_example(code_source):
  batches = _train(code_source, batch_size=40)
  epochs = [batch['label'] for batch in _take(batches, 3)]
  expected = [14, 13, 13]
  for labels in epochs:
    assert np.bincount(labels).tolist() == expected
  assert not np.array_equal(epochs[0], epochs[1])


def test_batch_larger_than_the_set_spans_epochs(source):
  (batch,) = _take(_train(source, batch_size=100), 1)
  counts = np.bincount(batch['label'])
  assert counts.sum() == 100
  assert counts.min() >= 2 * 13


def test_unshuffled_order_is_that_of_the_source(source):
  taken = _take(_train(source, shuffle=False), 4)
  labels = np.concatenate([batch['label'] for batch in taken])
  expected = [index % 40 % 3 for index in range(48)]
  assert labels.tolist() == expected


def test_training_images_are_the_crops_of_their_epoch():
  source = FakeImages()
  taken = _take(_train(source, shuffle=False), 7)
  images = np.concatenate([batch['image'] for batch in taken])
  for position in (0, 11, 39, 40, 75):
    epoch, index = divmod(position, 40)
    expected = preprocess.train_crop(
      source[index]['image'], DATA_SPEC, 1, epoch, index
    )
    np.testing.assert_array_equal(images[position], expected)


def test_epoch_reads_its_view(code_source):
  taken = _take(_train(code_source, batch_size=40, shuffle=False), 4)
  epochs = [batch['codes'] for batch in taken]
  np.testing.assert_array_equal(epochs[0], epochs[3])
  for one, other in itertools.combinations(epochs[:3], 2):
    assert not np.array_equal(one, other)


@pytest.mark.parametrize('processes', [1, 2])
def test_evaluation_sees_every_example_once(source, processes):
  evals = [
    pipeline.eval_batches(
      source,
      12,
      data_spec=DATA_SPEC,
      process_index=i,
      process_count=processes,
    )
    for i in range(processes)
  ]
  assert [len(each) for each in evals] == [4] * processes
  for _ in range(2):  # may be iterated again
    parts = [list(each) for each in evals]
    rows = [
      {key: np.concatenate([part[key] for part in row]) for key in row[0]}
      for row in zip(*parts, strict=True)
    ]
    assert [len(row['mask']) for row in rows] == [12] * 4
    mask = np.concatenate([row['mask'] for row in rows])
    assert mask.dtype == np.float32
    assert mask.tolist() == [1.0] * 40 + [0.0] * 8
    labels = np.concatenate([row['label'] for row in rows])
    assert labels.dtype == np.int32
    assert labels.tolist() == [i % 3 for i in range(40)] + [0] * 8
    key = 'image' if isinstance(source, FakeImages) else 'codes'
    assert not rows[-1][key][4:].any()
    for index in (0, 17, 39):
      example = source[index][key]
      if key == 'image':
        example = preprocess.center_crop(example, DATA_SPEC)
      row = rows[index // 12][key][index % 12]
      np.testing.assert_array_equal(row, example)


def test_state_of_other_data_is_refused(source):
  state = _train(source).get_state()
  with pytest.raises(errors.DataError, match='batch_size 12, but this run'):
    _train(source, batch_size=24, start=state)
  with pytest.raises(errors.DataError, match='seed'):
    _train(source, seed=5, start=state)
  with pytest.raises(errors.DataError, match='not readable'):
    _train(source, start='{}')


def test_uneven_batch_and_empty_source_are_refused(source):
  with pytest.raises(errors.ConfigError, match='12 cannot be split over 5'):
    _train(source, process_count=5)
  with pytest.raises(errors.DataError, match='no examples'):
    _train(FakeImages(size=0))
  with pytest.raises(TypeError, match='data_spec'):
    _train(FakeImages(), data_spec=None)


class _BrokenImages(FakeImages):
  def __getitem__(self, index):
    if index == 30:
      raise errors.DataError('thirty.png: not a readable image')
    return super().__getitem__(index)


def test_corrupt_image_stops_the_run_with_its_name():
  batches = _train(_BrokenImages(), shuffle=False)
  with pytest.raises(errors.DataError, match='thirty'):
    _take(batches, 6)


def test_reading_ahead_hides_the_time_of_a_step(code_source):
  """While the device works, the next batch is read in the background."""
  batches = _train(code_source)
  next(batches)
  time.sleep(0.5)
  start = time.monotonic()
  next(batches)
  assert time.monotonic() - start < 0.2
  batches.close()


def test_resized_images_are_kept_up_to_a_limit():
  reads = []

  class Counting(FakeImages):
    def __getitem__(self, index):
      reads.append(index)
      return super().__getitem__(index)

  resized = ResizedSource(Counting(), DATA_SPEC, limit_bytes=3 * 12 * 16 * 3)
  for _ in range(2):
    for index in range(3):
      image = resized[index]['image']
      assert image.shape == (16, 12, 3)
  # Two of 576 bytes fit three times into 1,728; nothing is read twice.
  assert reads == [0, 1, 2]
  assert resized[3]['label'] == resized[3]['label'] == 0
  assert reads == [0, 1, 2, 3, 3]
  assert len(resized) == 40

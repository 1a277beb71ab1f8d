"""The code cache: equal bytes after any interruption, no damage unseen."""

import dataclasses
import itertools
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import time

from fake_images import CODE_SPEC, DATA_SPEC, FakeImages, fake_encode
import numpy as np
import pytest

from varjax import errors
from varjax.data import codes, encode, preprocess
from varjax.types import CodeSpec

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _encode(folder, encode_fn=fake_encode, source=FakeImages(), **kwargs):  # noqa: B008
  options = {
    'tokenizer_id': 'tok',
    'code_spec': CODE_SPEC,
    'data_spec': DATA_SPEC,
    'split': 'train',
    'views': 2,
    'batch_size': 4,
    'shard_images': 12,
    'seed': 3,
    **kwargs,
  }
  return encode.encode_split(encode_fn, source, folder, **options)


def _content(folder):
  return {
    path.name: path.read_bytes()
    for path in sorted((folder / 'train').iterdir())
    if not path.name.startswith('.')
  }


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp('written')
  return folder, _encode(folder)


@pytest.fixture
def copy(written, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(written[0], folder)
  return folder


def _shard(folder, number=1, view=1):
  (path,) = (folder / 'train').glob(f'view{view}-{number:05d}-*')
  return path


def test_codes_are_those_of_the_seeded_crops(written):
  folder, manifest = written
  source, images = codes.open_codes(folder, 'train'), FakeImages()
  assert len(source) == 40
  assert len(manifest.shards) == 8
  every = np.arange(40)
  for view in range(2):
    read, labels = source.read(every, np.full(40, view))
    crops = [
      preprocess.train_crop(images[i]['image'], DATA_SPEC, 3, view, i)
      for i in range(40)
    ]
    np.testing.assert_array_equal(read, fake_encode(np.stack(crops)))
    assert read.dtype == labels.dtype == np.int32
    assert labels.tolist() == [i % 3 for i in range(40)]
  for index in (0, 12, 39):
    example = source[index]
    assert example['id'] == images[index]['id']
    assert example['label'] == index % 3
    assert example['codes'].shape == (5, 1)
  with pytest.raises(IndexError):
    source[40]


def test_validation_codes_are_those_of_the_centre_crop(tmp_path):
  _encode(tmp_path, split='validation', views=1)
  source, images = codes.open_codes(tmp_path, 'validation'), FakeImages()
  crop = preprocess.center_crop(images[5]['image'], DATA_SPEC)
  np.testing.assert_array_equal(source[5]['codes'], fake_encode(crop[None])[0])


def test_manifest_says_what_the_codes_are(written):
  folder, manifest = written
  tree = json.loads((folder / 'train' / 'manifest.json').read_text())
  assert tree['schema'] == 1
  assert tree['tokenizer_id'] == 'tok'
  assert tree['fingerprint'] == 'fake'
  assert tree['split'] == 'train'
  assert (tree['resolution'], tree['resize_ratio']) == (8, 1.5)
  assert tree['class_names'] == ['a', 'b', 'c']
  assert sum(shard['examples'] for shard in tree['shards']) == 80
  source = codes.open_codes(folder, 'train', tokenizer_id='tok')
  assert source.manifest == manifest
  assert source.code_spec == CODE_SPEC
  assert source.fingerprint == manifest.codes_id == tree['codes_id']
  assert source.num_classes == 3
  assert source.views == 2


def test_calls_have_one_shape_and_progress_is_told(tmp_path):
  shapes, told = set(), []

  def record(images):
    shapes.add(images.shape)
    assert images.dtype == np.uint8
    return fake_encode(images)

  def tell(done, total):
    told.append((done, total))

  _encode(tmp_path, record, batch_size=5, progress=tell)
  assert shapes == {(5, 8, 8, 3)}
  assert told[0] == (0, 80)
  assert told[-1] == (80, 80)
  assert told == sorted(told)


def test_batch_size_does_not_change_the_bytes(written, tmp_path):
  _encode(tmp_path, batch_size=7)
  assert _content(tmp_path) == _content(written[0])


def test_finished_cache_is_not_encoded_again(copy, written):
  def refuse(images):
    raise AssertionError(images.shape)

  assert _encode(copy, refuse) == written[1]


@pytest.mark.parametrize('calls', [0, 1, 5, 13, 19])
def test_interrupted_writer_resumes_to_the_same_bytes(written, tmp_path, calls):
  counter = itertools.count()

  def fail_late(images):
    if next(counter) >= calls:
      raise KeyboardInterrupt
    return fake_encode(images)

  with pytest.raises(KeyboardInterrupt):
    _encode(tmp_path, fail_late)
  with pytest.raises(errors.DataError, match='of 8 shards are written; run'):
    codes.open_codes(tmp_path, 'train')
  finished = len(list((tmp_path / 'train').glob('*.npy')))
  again = itertools.count()

  def counted(images):
    next(again)
    return fake_encode(images)

  _encode(tmp_path, counted)
  assert _content(tmp_path) == _content(written[0])
  # Of 4 shards a view, 3 take 3 calls of 4 images and the last one takes 1.
  assert next(again) == 20 - sum([3, 3, 3, 1, 3, 3, 3, 1][:finished])


_SLOW_WRITER = """
import sys, time
from fake_images import *
from varjax.data import encode
def slow(images):
  time.sleep(0.05)
  return fake_encode(images)
encode.encode_split(
  slow, FakeImages(), sys.argv[1], tokenizer_id='tok', code_spec=CODE_SPEC,
  data_spec=DATA_SPEC, split='train', views=2, batch_size=4, shard_images=12,
  seed=3)
"""


def test_killed_process_resumes_to_the_same_bytes(written, tmp_path):
  paths = os.pathsep.join([str(ROOT), str(pathlib.Path(__file__).parent)])
  process = subprocess.Popen(
    [sys.executable, '-c', _SLOW_WRITER, str(tmp_path)],
    env={**os.environ, 'PYTHONPATH': paths},
  )
  deadline = time.monotonic() + 120
  while len(list(tmp_path.glob('train/*.npy'))) < 2:
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.005)
  with pytest.raises(errors.DataError, match='another process is encoding'):
    _encode(tmp_path)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  with pytest.raises(errors.DataError, match='incomplete'):
    codes.open_codes(tmp_path, 'train')
  _encode(tmp_path)
  assert _content(tmp_path) == _content(written[0])


def test_leftover_of_a_killed_shard_is_replaced(written, copy):
  """Killed between the rename of a shard and the write of the manifest."""
  path = copy / 'train' / 'manifest.json'
  tree = json.loads(path.read_text())
  tree['shards'], tree['codes_id'] = tree['shards'][:5], ''
  path.write_text(json.dumps(tree))
  _shard(copy, 2, 1).with_suffix('.npy.partial').write_bytes(b'half')
  _encode(copy)
  assert _content(copy) == _content(written[0])


@pytest.mark.parametrize(
  ('fault', 'message'),
  [
    ('truncated', 'bytes instead of'),
    ('flipped', 'checksum'),
    ('flipped, times restored', 'checksum'),
    ('missing', 'missing'),
  ],
)
def test_damaged_shard_is_named_and_repaired(copy, written, fault, message):
  codes.open_codes(copy, 'train')  # remembers the checksums of whole shards
  path = _shard(copy)
  content, stat = bytearray(path.read_bytes()), path.stat()
  if fault == 'truncated':
    path.write_bytes(content[:-100])
  elif fault == 'missing':
    path.unlink()
  else:
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if 'restored' in fault:
      os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  with pytest.raises(errors.DataError, match=message) as caught:
    codes.open_codes(copy, 'train')
  assert path.name in str(caught.value)
  assert 'run `varjax encode` again' in str(caught.value)
  _encode(copy)
  assert _content(copy) == _content(written[0])
  assert len(codes.open_codes(copy, 'train')) == 40


def test_shard_damaged_after_opening_is_named(copy):
  source = codes.open_codes(copy, 'train')
  path = _shard(copy, 0, 0)
  content = bytearray(path.read_bytes())
  content[100:] = bytes(len(content) - 100)
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match=path.name):
    source.read(np.arange(12), np.zeros(12, int))


def test_other_tokenizer_is_refused(written, copy):
  folder, _ = written
  with pytest.raises(errors.DataError, match=r'tokenizer tok, but .* other'):
    codes.open_codes(folder, 'train', tokenizer_id='other')
  before = _content(copy)
  with pytest.raises(errors.DataError, match="tokenizer_id is 'tok', but"):
    _encode(copy, tokenizer_id='other')
  assert _content(copy) == before


@pytest.mark.parametrize(
  ('change', 'name'),
  [
    ({'seed': 4}, 'seed'),
    ({'views': 3}, 'views'),
    ({'shard_images': 8}, 'shard_images'),
    ({'source': FakeImages(fingerprint='new')}, 'fingerprint'),
    ({'data_spec': dataclasses.replace(DATA_SPEC, flip=True)}, 'flip'),
  ],
)
def test_other_settings_are_refused(written, change, name):
  with pytest.raises(errors.DataError, match=f'{name} is .* another folder'):
    _encode(written[0], **change)


@pytest.mark.parametrize(
  ('edit', 'message'),
  [
    (lambda text: text[:0], 'cannot be read'),
    (lambda text: text[: len(text) // 2], 'cannot be read'),
    (lambda text: text.replace('"schema": 1', '"schema": 9'), 'schema 9'),
    (lambda text: text.replace('"vocab"', '"words"'), 'not a code manifest'),
    (lambda text: text.replace('"vocab": 256', '"vocab": "x"'), 'vocab is'),
    (lambda text: text.replace('"vocab": 256', '"vocab": 512'), 'changed'),
  ],
)
def test_damaged_manifest_is_named(copy, edit, message):
  path = copy / 'train' / 'manifest.json'
  path.write_text(edit(path.read_text()))
  with pytest.raises(errors.DataError, match=message) as caught:
    codes.open_codes(copy, 'train')
  assert str(path) in str(caught.value)


def test_missing_cache_says_what_to_run(tmp_path):
  with pytest.raises(errors.DataError, match=r'manifest\.json: no such file'):
    codes.open_codes(tmp_path, 'train')


@pytest.mark.parametrize(
  ('output', 'message'),
  [
    (lambda codes: codes + 256, 'allowed: 0 to 255'),
    (lambda codes: codes - 256, 'allowed: 0 to 255'),
    (lambda codes: codes[:, :4], r'shape \(4, 4, 1\)'),
    (lambda codes: codes[..., 0], r'shape \(4, 5\)'),
    (lambda codes: codes.astype(np.float32), 'float32'),
  ],
)
def test_impossible_codes_are_refused(tmp_path, output, message):
  with pytest.raises(errors.DataError, match=message):
    _encode(tmp_path, lambda images: output(fake_encode(images)))
  assert not list(tmp_path.glob('train/*.npy'))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'split': 'test'}, 'allowed: train, validation'),
    ({'views': 0}, 'views is 0'),
    ({'split': 'validation'}, 'views is 2'),
    ({'batch_size': 0}, 'batch_size is 0'),
    ({'source': FakeImages(size=0)}, 'no images'),
  ],
)
def test_impossible_settings_are_refused(tmp_path, change, message):
  with pytest.raises(errors.DataError, match=message):
    _encode(tmp_path, **change)
  assert not list(tmp_path.iterdir())


def test_residual_stacks_and_large_vocabularies(tmp_path):
  spec = CodeSpec(
    grids=((2, 3),), vocab=70_000, code_dim=4, codes_per_position=2
  )

  def stacked(images):
    return images[:, 0, :6, :2].astype(np.int64) * 274

  _encode(tmp_path, stacked, code_spec=spec, views=1)
  source = codes.open_codes(tmp_path, 'train')
  crop = preprocess.train_crop(FakeImages()[9]['image'], DATA_SPEC, 3, 0, 9)
  read, _ = source.read(np.array([9]), np.array([0]))
  assert read.shape == (1, 6, 2)
  assert read.max() > 1 << 16
  np.testing.assert_array_equal(read, stacked(crop[None]))


def test_source_survives_pickling(written):
  source = codes.open_codes(written[0], 'train')
  source[0]
  copied = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copied[7]['codes'], source[7]['codes'])


def test_cache_where_nothing_can_be_remembered_is_opened(copy):
  """As in a read-only folder: every shard is hashed, every time."""
  (copy / 'train' / '.verified.json').unlink(missing_ok=True)
  (copy / 'train' / '.verified.json').mkdir()
  assert len(codes.open_codes(copy, 'train')) == 40
  path = _shard(copy)
  path.write_bytes(path.read_bytes()[::-1])
  with pytest.raises(errors.DataError, match='checksum'):
    codes.open_codes(copy, 'train')

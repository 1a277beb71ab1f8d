"""Both formats of shards: one that is written, one that must stay readable."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import warnings

from fake_images import DATA_SPEC, FakeImages, fake_encode
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import test_codes

from varjax import errors
from varjax.data import codes, mapped, pipeline, preprocess, shards
from varjax.data import manifest as manifests

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Written by the code of commit 53a3019 with the settings of `_encode`.
OLD = ROOT / 'tests' / 'testdata' / 'codes_array_record'
EVERY, FIRST = np.arange(40), np.zeros(40, int)


def _encode(folder):
  return test_codes._encode(folder, views=1, shard_images=24)


@pytest.fixture(scope='module')
def new(tmp_path_factory):
  folder = tmp_path_factory.mktemp('new')
  _encode(folder)
  return folder


@pytest.fixture
def old(tmp_path):
  folder = tmp_path / 'old'
  shutil.copytree(OLD, folder)
  return folder


# --- caches from before ------------------------------------------------------


def test_an_old_cache_is_read_and_keeps_its_id(old):
  source = codes.open_codes(old, 'train')
  assert source.fingerprint == '83e6795b16dca584'
  read, labels = source.read(EVERY, FIRST)
  images = FakeImages()
  crops = [
    preprocess.train_crop(images[i]['image'], DATA_SPEC, 3, 0, i)
    for i in range(40)
  ]
  np.testing.assert_array_equal(read, fake_encode(np.stack(crops)))
  assert labels.tolist() == [i % 3 for i in range(40)]
  assert source[39]['id'] == images[39]['id']


def test_formats_give_the_same_batches(new, old):
  one, other = (
    pipeline.train_batches(
      codes.open_codes(folder, 'train'), batch_size=12, seed=1
    )
    for folder in (new, old)
  )
  for _ in range(7):
    mine, theirs = next(one), next(other)
    assert mine.keys() == theirs.keys()
    for key in mine:
      assert mine[key].dtype == theirs[key].dtype
      np.testing.assert_array_equal(mine[key], theirs[key])
  one.close()
  other.close()


@pytest.mark.parametrize('state', ['interrupted', 'lost', 'damaged', 'unnoted'])
def test_an_old_cache_is_finished_as_it_was_begun(old, state):
  """With the same bytes, and so with the same id."""
  path = old / 'train' / manifests.FILE
  first, second = sorted((old / 'train').glob('*.array_record'))
  tree = json.loads(path.read_text())
  if state == 'interrupted':
    second.unlink()
    tree['shards'], tree['codes_id'] = tree['shards'][:1], ''
  elif state == 'lost':
    first.unlink()
    second.unlink()
  elif state == 'damaged':
    second.write_bytes(second.read_bytes()[::-1])
  else:  # killed between the rename of the first shard and the manifest
    second.unlink()
    tree['shards'], tree['codes_id'] = [], ''
  path.write_text(json.dumps(tree))
  with pytest.raises(errors.DataError, match='run `varjax encode` again'):
    codes.open_codes(old, 'train')
  _encode(old)
  assert test_codes._content(old) == test_codes._content(OLD)


# --- the format that is written ----------------------------------------------


def test_a_shard_is_one_array_that_numpy_reads(new):
  (path,) = (new / 'train').glob('view0-00001-*')
  records = np.load(path, allow_pickle=False)
  assert path.suffix == '.npy'
  assert records.shape == (16,)
  assert records.dtype['label'] == np.int32
  assert records.dtype['codes'].subdtype == (np.uint16, (5,))
  names = [FakeImages()[i]['id'].encode() for i in range(24, 40)]
  assert records['id'].tolist() == names
  assert records.dtype['id'].itemsize == max(map(len, names))


def _reader(folder, edit):
  """A reader of shard 1 after `edit(path)`, past the check of its hash."""
  source = codes.open_codes(folder, 'train')
  shard = source.manifest.shards[1]
  path = folder / 'train' / shard.file
  edit(path)
  return shards.ShardReader(path, source.manifest, shard)


def _replaced(change):
  return lambda path: np.save(path, change(np.load(path)))


def _as_objects(path):
  np.save(path, np.array([{'label': 0}] * 16), allow_pickle=True)


@pytest.mark.parametrize(
  ('edit', 'message'),
  [
    (_as_objects, 'cannot be read'),
    (_replaced(lambda rows: rows[:15]), '15 records instead of 16'),
    (_replaced(lambda rows: rows[None]), 'not one row of records'),
    (_replaced(lambda rows: rows['label']), 'records of int32, not of'),
    (_replaced(lambda rows: rows[['label', 'id']]), 'records of'),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), 'cannot be read'),
    (lambda path: path.write_bytes(path.read_bytes() + b'0'), 'bytes after'),
    (lambda path: path.write_bytes(b''), 'cannot be read'),
    (lambda path: np.savez(path.open('wb'), np.zeros(3)), 'not one row'),
    (pathlib.Path.unlink, 'No such file'),
  ],
)
def test_what_is_no_shard_is_one_sentence(new, tmp_path, edit, message):
  shutil.copytree(new, tmp_path / 'copy')
  with pytest.raises(errors.DataError, match=message) as caught:
    _reader(tmp_path / 'copy', edit)
  said = str(caught.value)
  assert '\n' not in said
  assert 'view0-00001-of-00002.npy: cannot be read' in said
  assert 'run `varjax encode` again' in said


def test_a_code_beyond_the_codebook_is_not_given_out(new, tmp_path):
  """As from a page that was damaged after its file was hashed."""
  shutil.copytree(new, tmp_path / 'copy')

  def spoil(rows):
    rows['codes'][3, 2] = 256
    return rows

  reader = _reader(tmp_path / 'copy', _replaced(spoil))
  reader.read(np.array([2, 4]))
  with pytest.raises(errors.DataError, match='it holds code 256'):
    reader.read(np.array([2, 3]))


@settings(deadline=None, max_examples=60)
@given(
  place=st.integers(0, 127), value=st.integers(0, 255), cut=st.integers(0, 128)
)
def test_no_header_does_harm(new, place, value, cut):
  """It is read as what it was, or refused."""
  rows = [(np.full((5, 1), i), i, f'é{i}') for i in range(4)]
  plan = manifests.load(new / 'train')
  path = new / 'damaged.npy'
  mapped.write(path, plan, rows)
  whole = path.read_bytes()
  content = bytearray(whole[: len(whole) - (cut if cut < 8 else 0)])
  content[place] = value
  path.unlink()
  path.write_bytes(content)
  shard = manifests.Shard(path.name, 0, 0, 4, len(content), '')
  try:
    reader = shards.ShardReader(path, plan, shard)
  except errors.DataError:
    return
  read, labels = reader.read(np.arange(4))
  assert read[:, :, 0].tolist() == [[i] * 5 for i in range(4)]
  assert labels.tolist() == [0, 1, 2, 3]
  assert reader.name(3) == 'é3'


# --- many shards, threads, processes -----------------------------------------


def _open_files(folder):
  """Descriptors of shards, and lines of maps, of this process."""
  links = pathlib.Path('/proc/self/fd')
  files = [os.readlink(link) for link in links.iterdir() if link.exists()]
  maps = pathlib.Path('/proc/self/maps').read_text().splitlines()
  where = str(folder)
  return sum(where in f for f in files), sum(where in line for line in maps)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_open_shards_are_bounded_and_go_with_the_source(tmp_path, monkeypatch):
  monkeypatch.setattr(codes, '_OPEN', 3)
  manifest = test_codes._encode(tmp_path, views=1, shard_images=4)
  assert len(manifest.shards) == 10
  source = codes.open_codes(tmp_path, 'train')
  whole, _ = source.read(EVERY, FIRST)
  descriptors, maps = _open_files(tmp_path)
  assert maps == 3
  assert descriptors <= 3
  for index in (0, 39, 5, 0, 22):
    np.testing.assert_array_equal(source[index]['codes'], whole[index])
  del source
  assert _open_files(tmp_path) == (0, 0)


def test_threads_read_what_one_reads(new, monkeypatch):
  monkeypatch.setattr(codes, '_OPEN', 1)
  source = codes.open_codes(new, 'train')
  whole, _ = source.read(EVERY, FIRST)
  draws = np.random.default_rng(0).integers(0, 40, (64, 12))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    read = pool.map(lambda draw: source.read(draw, np.zeros(12, int))[0], draws)
    for draw, found in zip(draws, read, strict=True):
      np.testing.assert_array_equal(found, whole[draw])


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_a_forked_process_reads_the_same_maps(new):
  source = codes.open_codes(new, 'train')
  whole, _ = source.read(EVERY, FIRST)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # JAX warns of any fork
    child = os.fork()
  if not child:
    read, _ = source.read(EVERY[::-1], FIRST)
    os._exit(0 if np.array_equal(read, whole[::-1]) else 1)
  assert os.waitpid(child, 0)[1] == 0


def test_a_reader_of_headers_that_two_threads_confuse(new, monkeypatch):
  """Python 3.11's `ast` raises SystemError, which says nothing of the file."""
  load, calls = np.load, []

  def confused(*args, **kwargs):
    calls.append(args)
    if len(calls) % 3:
      raise SystemError('AST constructor recursion depth mismatch')
    return load(*args, **kwargs)

  monkeypatch.setattr(np, 'load', confused)
  source = codes.open_codes(new, 'train')
  source.read(EVERY, FIRST)
  assert len(calls) == 6


_CUT_WHILE_OPEN = """
import sys
import numpy as np
from varjax.data import codes
source = codes.open_codes(sys.argv[1], 'train')
source.read(np.arange(40), np.zeros(40, int))
shard = source.manifest.shards[0]
open(source.folder / shard.file, 'r+b').truncate(0)
source.read(np.arange(40), np.zeros(40, int))
"""


def test_a_shard_cut_while_it_is_mapped_is_named_by_the_next_start(
  new, tmp_path
):
  """The kernel ends the process; a launcher starts it again."""
  shutil.copytree(new, tmp_path / 'copy')
  ended = subprocess.run(
    [sys.executable, '-c', _CUT_WHILE_OPEN, str(tmp_path / 'copy')],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
  )
  assert ended.returncode == -signal.SIGBUS
  with pytest.raises(errors.DataError, match='has 0 bytes instead of'):
    codes.open_codes(tmp_path / 'copy', 'train')

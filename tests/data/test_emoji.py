"""The built-in emoji: content, splits without leaks, safe preparation."""

import collections
import multiprocessing
import pathlib
import pickle
import time

import numpy as np
import pytest

from varjax import errors
from varjax.data import images, sources
from varjax.data.emoji import emoji_dataset_builder as builder
from varjax.data.emoji import prepare
from varjax.spec import DataSpec


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  root = tmp_path_factory.mktemp('emoji')
  start = time.monotonic()
  folder = prepare.prepare(root)
  return root, folder, time.monotonic() - start


@pytest.fixture(scope='module')
def spec(prepared):
  return DataSpec(data_dir=str(prepared[0]))


def test_package_stays_small():
  folder = pathlib.Path(builder.__file__).parent
  files = [path for path in folder.iterdir() if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 5_000_000


def test_prepare_takes_seconds_and_happens_once(prepared):
  root, folder, seconds = prepared
  assert seconds < 20
  before = (folder / 'dataset_info.json').stat().st_mtime_ns
  assert prepare.prepare(root) == folder
  assert (folder / 'dataset_info.json').stat().st_mtime_ns == before


def test_splits_cover_the_vendored_images(spec):
  train = sources.open_source(spec, 'train')
  validation = sources.open_source(spec, 'validation')
  assert len(train) + len(validation) == 3742
  assert 0.08 < len(validation) / 3742 < 0.12
  assert train.num_classes == len(train.class_names) == 9
  assert 'Animals & Nature' in train.class_names
  assert train.fingerprint != validation.fingerprint


def test_no_emoji_is_in_both_splits(spec):
  """Both styles of one emoji are near duplicates, FE0F or not."""
  where = collections.defaultdict(set)
  labels = collections.Counter()
  for split in sources.SPLITS:
    source = sources.open_source(spec, split)
    for index in range(len(source)):
      record = source._records[index]
      emoji = record['id'].decode().partition('/')[0].replace('-FE0F', '')
      where[emoji].add(split)
      labels[split, int(record['label'])] += 1
  assert len(where) == 1899
  assert {len(splits) for splits in where.values()} == {1}
  assert len(labels) == 18  # every label in both splits


def test_images_are_the_vendored_pixels(spec):
  tables = builder.load()
  number = {
    f'{emoji}/{tables["styles"][style]}': index
    for index, (emoji, style) in enumerate(
      zip(tables['emoji'].tolist(), tables['style'], strict=True)
    )
  }
  source = sources.open_source(spec, 'validation')
  for index in range(0, len(source), 50):
    example = source[index]
    row = number[example['id']]
    start, stop = tables['offsets'][row : row + 2]
    vendored = images.decode(tables['webp'][start:stop].tobytes(), 'vendored')
    assert example['image'].shape == (32, 32, 3)
    np.testing.assert_array_equal(example['image'], vendored)
    assert example['label'] == tables['label'][row]


def test_source_survives_pickling(spec):
  source = sources.open_source(spec, 'validation')
  source[0]
  copy = pickle.loads(pickle.dumps(source))
  assert copy[3]['id'] == source[3]['id']
  assert copy.fingerprint == source.fingerprint


def test_cache_folder_is_chosen_by_spec_then_environment(monkeypatch, tmp_path):
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path))
  assert prepare.cache_dir('') == tmp_path
  assert prepare.cache_dir('/elsewhere') == pathlib.Path('/elsewhere')
  monkeypatch.delenv('VARJAX_CACHE')
  assert prepare.cache_dir('').parts[-2:] == ('.cache', 'varjax')


def test_leftovers_of_a_killed_preparation_are_replaced(tmp_path):
  half = tmp_path / 'emoji' / 'incomplete.ABCDEF_1.0.0'
  half.mkdir(parents=True)
  (half / 'emoji-train.array_record-00000-of-00001').write_bytes(b'half')
  folder = tmp_path / 'emoji' / '1.0.0'
  folder.mkdir()
  assert prepare.prepare(tmp_path) == folder
  assert not half.exists()
  assert (folder / 'dataset_info.json').is_file()


def test_unwritable_cache_is_told(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.DataError, match='VARJAX_CACHE'):
    prepare.prepare(tmp_path / 'file')


def test_processes_prepare_together(tmp_path):
  context = multiprocessing.get_context('spawn')
  with context.Pool(2) as pool:
    folders = pool.map(prepare.prepare, [tmp_path] * 2, chunksize=1)
  assert folders[0] == folders[1]
  assert [path.name for path in folders[0].parent.iterdir()] == ['1.0.0']
  spec = DataSpec(data_dir=str(tmp_path))
  assert len(sources.open_source(spec, 'train')) == 3345

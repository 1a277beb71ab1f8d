"""The built-in emoji: content, splits without leaks, safe preparation."""

import collections
import io
import multiprocessing
import pathlib
import pickle

import numpy as np
from PIL import Image
import pytest

from varjax import errors
from varjax.data import images, sources
from varjax.data.emoji import emoji_dataset_builder as builder
from varjax.data.emoji import prepare, vendor
from varjax.spec import DataSpec


@pytest.fixture(scope='module')
def spec(emoji_prepared):
  return DataSpec(data_dir=str(emoji_prepared[0]))


def test_vendoring_reduces_and_drops_skin_tones(tmp_path):
  rng = np.random.default_rng(0)
  pictures = [
    Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    for _ in range(3)
  ]
  encoded = []
  for picture in pictures:
    buffer = io.BytesIO()
    picture.save(buffer, 'WEBP', lossless=True)
    encoded.append(buffer.getvalue())
  np.savez(
    tmp_path / 'in.npz',
    webp=np.frombuffer(b''.join(encoded), np.uint8),
    offsets=np.cumsum([0, *map(len, encoded)]),
    category=np.array([1, 0, 1]),
    categories=np.array(['x', 'y']),
    style=np.array([0, 0, 1]),
    styles=np.array(['noto', 'fluent3d']),
    emoji=np.array(['A', 'B', 'C']),
    name=np.array(['a', 'b', 'c']),
    skin_tone=np.array([0, 1, 0]),
  )
  assert vendor.vendor(tmp_path / 'in.npz', tmp_path / 'out.npz') == 2
  with np.load(tmp_path / 'out.npz', allow_pickle=False) as tables:
    assert tables['emoji'].tolist() == ['A', 'C']
    assert tables['label'].tolist() == [1, 1]
    start, stop = tables['offsets'][1:]
    small = images.decode(tables['webp'][start:stop].tobytes(), 'C')
  expected = pictures[2].resize((32, 32), Image.Resampling.LANCZOS)
  assert small.shape == (32, 32, 3)
  assert abs(small.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_package_stays_small():
  folder = pathlib.Path(builder.__file__).parent
  files = [path for path in folder.iterdir() if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 5_000_000


def test_prepare_takes_seconds_and_happens_once(emoji_prepared):
  root, folder, seconds = emoji_prepared
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

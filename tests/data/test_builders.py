"""Prepared tfds datasets: found on disk, never looked for on the network."""

import dataclasses
import json
import shutil
import socket
import time

import pytest

from varjax import errors
from varjax.data import builders, sources
from varjax.spec import DataSpec


@pytest.fixture(scope='module')
def stored(tmp_path_factory, emoji_prepared):
  """A tfds data directory with the dataset 'fake' 1.0.0."""
  root = tmp_path_factory.mktemp('tfds')
  _, prepared, _ = emoji_prepared
  folder = root / 'fake' / prepared.name
  shutil.copytree(prepared, folder)
  return root, folder


@pytest.fixture
def no_network(monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError(f'network: {args} {kwargs}')

  monkeypatch.setattr(socket.socket, 'connect', refuse)
  monkeypatch.setattr(socket, 'getaddrinfo', refuse)


def _spec(root, name='fake', **kwargs):
  return DataSpec(name=name, data_dir=str(root), **kwargs)


@pytest.mark.usefixtures('no_network')
def test_prepared_dataset_is_read_by_name(stored):
  root, _ = stored
  source = sources.open_source(_spec(root), 'train')
  assert len(source) == 3345
  assert source[0]['image'].shape == (32, 32, 3)
  assert source.num_classes == 9


def test_splits_may_be_slices(stored):
  root, _ = stored
  spec = _spec(root, train_split='train[:100]', val_split='train[100:130]')
  train = sources.open_source(spec, 'train')
  held_out = sources.open_source(spec, 'validation')
  assert (len(train), len(held_out)) == (100, 30)
  assert train.fingerprint != held_out.fingerprint
  more = dataclasses.replace(spec, num_classes=12)
  assert sources.open_source(more, 'train').num_classes == 12


def test_newest_version_is_taken(stored, tmp_path):
  _, folder = stored
  for version in ('1.9.0', '1.10.0'):
    shutil.copytree(folder, tmp_path / 'fake' / version)
  assert builders.find('fake', str(tmp_path)).name == '1.10.0'
  assert builders.find('fake:1.9.0', str(tmp_path)).name == '1.9.0'


def test_one_of_several_configurations_must_be_named(stored, tmp_path):
  _, folder = stored
  for config in ('large', 'small'):
    shutil.copytree(folder, tmp_path / 'fake' / config / '1.0.0')
  with pytest.raises(errors.DataError, match='fake/large, fake/small'):
    builders.find('fake', str(tmp_path))
  found = builders.find('fake/small', str(tmp_path))
  assert found == tmp_path / 'fake' / 'small' / '1.0.0'


@pytest.mark.usefixtures('no_network')
def test_imagenet_that_is_not_prepared_says_how(tmp_path):
  start = time.monotonic()
  with pytest.raises(errors.DataError) as caught:
    sources.open_source(_spec(tmp_path, 'imagenet2012'), 'train')
  assert time.monotonic() - start < 5
  message = str(caught.value)
  assert 'ILSVRC2012_img_train.tar' in message
  assert 'ILSVRC2012_img_val.tar' in message
  assert str(tmp_path / 'downloads' / 'manual') in message
  assert 'tfds build imagenet2012' in message
  assert '--file_format=array_record' in message
  assert '\n' not in message


@pytest.mark.usefixtures('no_network')
def test_other_known_dataset_says_how(tmp_path):
  with pytest.raises(errors.DataError, match='tfds build cifar10'):
    sources.open_source(_spec(tmp_path, 'cifar10'), 'train')


@pytest.mark.usefixtures('no_network')
def test_unknown_dataset_says_what_is_allowed(tmp_path):
  with pytest.raises(errors.DataError, match=r'emoji .*, folder, or'):
    sources.open_source(_spec(tmp_path, 'no_such_set'), 'train')


def test_unknown_split_says_what_is_allowed(stored):
  root, _ = stored
  spec = _spec(root, train_split='test')
  with pytest.raises(errors.DataError, match='allowed: train, validation'):
    sources.open_source(spec, 'train')


def _edited(stored, tmp_path, file, old, new):
  _, folder = stored
  copy = tmp_path / 'fake' / '1.0.0'
  shutil.copytree(folder, copy)
  text = (copy / file).read_text()
  assert old in text
  (copy / file).write_text(text.replace(old, new))
  return _spec(tmp_path)


def test_tfrecord_files_are_refused(stored, tmp_path):
  spec = _edited(
    stored,
    tmp_path,
    'dataset_info.json',
    '"fileFormat": "array_record"',
    '"fileFormat": "tfrecord"',
  )
  with pytest.raises(errors.DataError, match='prepare it again'):
    sources.open_source(spec, 'train')


def test_unlabelled_dataset_is_refused(stored, tmp_path):
  spec = _edited(stored, tmp_path, 'features.json', '"label"', '"kind"')
  features = json.loads(
    (tmp_path / 'fake' / '1.0.0' / 'features.json').read_text()
  )
  assert 'kind' in features['featuresDict']['features']
  with pytest.raises(errors.DataError, match="no feature 'label'"):
    sources.open_source(spec, 'train')


def test_corrupt_record_is_told(stored, tmp_path):
  _, folder = stored
  copy = tmp_path / 'fake' / '1.0.0'
  shutil.copytree(folder, copy)
  (file,) = copy.glob('*train*')
  content = bytearray(file.read_bytes())
  middle = len(content) // 2
  content[middle : middle + 100_000] = bytes(100_000)
  file.write_bytes(content)
  source = sources.open_source(_spec(tmp_path), 'train')
  with pytest.raises(errors.DataError, match=r'record .* cannot be read'):
    [source[index] for index in range(1500, 1900)]

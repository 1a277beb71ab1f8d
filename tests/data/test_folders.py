"""Class folders as a source, and what can be wrong with them."""

import dataclasses
import pickle
import shutil

import numpy as np
from PIL import Image
import pytest

from varjax import errors
from varjax.data import sources
from varjax.spec import DataSpec


def _write(path, value, size=(6, 5), mode='RGB'):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, value).save(path)


@pytest.fixture
def spec(tmp_path):
  for number, name in enumerate(('dog', 'ant', 'cat')):
    for index in range(3):
      file = tmp_path / 'train' / name / f'{index}.png'
      _write(file, (number, index, 9))
  _write(tmp_path / 'validation' / 'dog' / 'x.PNG', (200, 1, 1))
  _write(tmp_path / 'validation' / 'cat' / 'grey.png', 77, mode='L')
  (tmp_path / 'train' / 'ant' / 'notes.txt').write_text('not an image')
  (tmp_path / 'train' / '.hidden').mkdir()
  return DataSpec(name='folder', data_dir=str(tmp_path))


def test_examples_are_sorted_and_labelled(spec):
  source = sources.open_source(spec, 'train')
  assert len(source) == 9
  assert source.class_names == ('ant', 'cat', 'dog')
  assert source.num_classes == 3
  assert [source[i]['id'] for i in (0, 3, 8)] == [
    'ant/0.png',
    'cat/0.png',
    'dog/2.png',
  ]
  example = source[8]
  assert example['label'] == 2
  assert example['image'].dtype == np.uint8
  assert example['image'].shape == (5, 6, 3)
  assert example['image'][0, 0].tolist() == [0, 2, 9]


def test_validation_takes_the_labels_of_training(spec):
  source = sources.open_source(spec, 'validation')
  assert source.class_names == ('ant', 'cat', 'dog')
  found = {source[i]['id']: source[i]['label'] for i in range(len(source))}
  assert found == {'cat/grey.png': 1, 'dog/x.PNG': 2}
  assert source[0]['image'].shape == (5, 6, 3)


def test_source_survives_pickling(spec):
  source = sources.open_source(spec, 'train')
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy[4]['image'], source[4]['image'])


def test_fingerprint_follows_the_content_not_the_place(spec, tmp_path):
  here = sources.open_source(spec, 'train')
  elsewhere = tmp_path / 'elsewhere'
  shutil.copytree(tmp_path / 'train', elsewhere / 'train')
  moved = dataclasses.replace(spec, data_dir=str(elsewhere))
  assert sources.open_source(moved, 'train').fingerprint == here.fingerprint
  assert sources.open_source(spec, 'validation').fingerprint != here.fingerprint
  _write(elsewhere / 'train' / 'cat' / 'new.png', (1, 2, 3))
  assert sources.open_source(moved, 'train').fingerprint != here.fingerprint


def test_other_split_names(spec, tmp_path):
  (tmp_path / 'validation').rename(tmp_path / 'val')
  renamed = dataclasses.replace(spec, val_split='val')
  assert len(sources.open_source(renamed, 'validation')) == 2


def test_corrupt_file_is_named(spec, tmp_path):
  file = tmp_path / 'train' / 'cat' / '1.png'
  file.write_bytes(file.read_bytes()[:40])
  source = sources.open_source(spec, 'train')
  with pytest.raises(errors.DataError, match=r'train/cat/1\.png'):
    source[4]
  file.unlink()
  with pytest.raises(errors.DataError, match=r'train/cat/1\.png.*cannot'):
    source[4]


@pytest.mark.parametrize(
  ('fault', 'message'),
  [
    ('no data_dir', 'data.data_dir is empty'),
    ('no split', 'validation: no such folder'),
    ('no classes', 'validation: holds no class folders'),
    ('empty class', 'train/eel: holds no image file'),
    ('unknown class', 'validation/eel: .* no class of this name'),
    ('too few classes', r'data\.num_classes is 2'),
    ('unknown split', 'split .test. is unknown; allowed: train, validation'),
  ],
)
def test_faults_are_told_in_one_sentence(spec, tmp_path, fault, message):
  split = 'validation'
  if fault == 'no data_dir':
    spec = dataclasses.replace(spec, data_dir='')
  elif fault in ('no split', 'no classes'):
    shutil.rmtree(tmp_path / 'validation')
    if fault == 'no classes':
      (tmp_path / 'validation').mkdir()
  elif fault == 'empty class':
    (tmp_path / 'train' / 'eel').mkdir()
    split = 'train'
  elif fault == 'unknown class':
    _write(tmp_path / 'validation' / 'eel' / 'a.png', (0, 0, 0))
  elif fault == 'too few classes':
    spec = dataclasses.replace(spec, num_classes=2)
  else:
    split = 'test'
  with pytest.raises(errors.DataError, match=message) as caught:
    sources.open_source(spec, split)
  assert '\n' not in str(caught.value)

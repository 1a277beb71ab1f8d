"""Sets of images in folders, .npz files and datasets."""

import dataclasses

import numpy as np
from picture_sets import (
  SIDE,
  all_of,
  lying_npz,
  pictures,
  write_folder,
  write_npz,
)
from PIL import Image
import pytest
import tiny
import tiny_network

from varjax import errors
from varjax.scoring import images, reference, statistics
from varjax.spec import DataSpec


def test_a_folder_and_an_npz_hold_the_same_images(tmp_path):
  values = pictures(5)
  folder = images.open_folder(write_folder(tmp_path / 'a' / 'b', values).parent)
  packed = images.open_npz(write_npz(tmp_path / 'a.npz', arr_0=values))
  pressed = tmp_path / 'pressed.npz'
  np.savez_compressed(pressed, arr_0=values, arr_1=np.arange(5))
  for found in (folder, packed, images.open_npz(pressed)):
    assert (found.count, found.size) == (5, (SIDE, SIDE))
    np.testing.assert_array_equal(all_of(found, 2), values)
    # Two processes read every second batch, each once.
    parts = [list(found.batches(2, i, 2)) for i in (0, 1)]
    assert [len(p) for p in parts[0]] == [2, 1]
    np.testing.assert_array_equal(parts[1][0], values[2:4])


def test_a_fingerprint_follows_the_content(tmp_path):
  values = pictures(3)
  one = images.open_folder(write_folder(tmp_path / 'one', values))
  same = images.open_folder(write_folder(tmp_path / 'same', values))
  values[1, 0, 0, 0] ^= 1
  other = images.open_folder(write_folder(tmp_path / 'other', values))
  assert one.fingerprint == same.fingerprint != other.fingerprint


def test_sets_that_cannot_be_read_are_one_sentence(tmp_path):
  values = pictures(3)
  mixed = write_folder(tmp_path / 'mixed', values)
  Image.fromarray(values[0, :8]).save(mixed / '0009.png')
  with pytest.raises(errors.DataError, match='images of one size'):
    all_of(images.open_folder(mixed))
  (tmp_path / 'none').mkdir()
  with pytest.raises(errors.DataError, match='holds no image file'):
    images.open_folder(tmp_path / 'none')
  for name, arrays, said in (
    ('float', {'arr_0': values / 2}, 'must be uint8'),
    ('flat', {'arr_0': values[0]}, 'must be uint8'),
    ('named', {'images': values}, 'has no array arr_0'),
  ):
    path = write_npz(tmp_path / f'{name}.npz', **arrays)
    with pytest.raises(errors.DataError, match=said):
      images.open_npz(path)
  (tmp_path / 'text.npz').write_text('no zip')
  with pytest.raises(errors.DataError, match='cannot be read as'):
    images.open_npz(tmp_path / 'text.npz')
  with pytest.raises(errors.DataError, match='does not exist'):
    reference.open_images(str(tmp_path / 'absent'))
  with pytest.raises(errors.DataError, match='--resolution'):
    reference.open_images('emoji:validation')


def test_shapes_larger_than_the_record_are_refused(tmp_path):
  path = lying_npz(tmp_path / 'a.npz', (2**40, 256, 256, 3), b'\0' * 100)
  with pytest.raises(errors.DataError, match='declares the shape'):
    images.open_npz(path)
  overflow = lying_npz(tmp_path / 'b.npz', (2**62, 2**62, 4, 3), b'\0' * 100)
  with pytest.raises(errors.DataError, match='declares the shape'):
    images.open_npz(overflow)


def test_objects_in_an_npz_are_never_unpickled(tmp_path):
  class Bomb:
    def __reduce__(self):
      return pytest.fail, ('a pickle was run',)

  trap = np.empty((1, 2, 2, 3), object)
  trap[:] = 0
  path = tmp_path / 'trap.npz'
  trap[0, 0, 0, 0] = Bomb()
  np.savez(path, arr_0=trap, mu=trap[0, 0, 0], sigma=trap[0, 0])
  with pytest.raises(errors.DataError, match='must be uint8'):
    images.open_npz(path)
  inception = statistics.Extractor(tiny_network.make(name='inception2015'), 8)
  with pytest.raises(errors.DataError, match='moments are'):
    reference.open_reference(str(path), inception)


def test_a_split_of_a_dataset(tmp_path):
  root = tiny.write_images(tmp_path / 'data')
  spec = DataSpec(name='folder', data_dir=str(root), resolution=16)
  found = reference.open_images('folder:validation', data=spec)
  assert (found.count, found.size) == (12, (16, 16))
  assert all_of(found, 5).shape == (12, 16, 16, 3)
  other = dataclasses.replace(spec, resolution=18)
  changed = reference.open_images('folder:validation', data=other)
  assert changed.fingerprint != found.fingerprint

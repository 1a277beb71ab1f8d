"""Images packed into one .npz: reading, splits, identity, refusals."""

import io
import pickle

import numpy as np
from PIL import Image
import pytest

from varjax import errors
from varjax.data import packed, sources
from varjax.data.emoji import code_points
from varjax.spec import DataSpec


def _arrays(count=6):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (count, 9, 8, 3), np.uint8)
  files = []
  for image in pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'WEBP', lossless=True)
    files.append(buffer.getvalue())
  arrays = {
    'webp': np.frombuffer(b''.join(files), np.uint8),
    'offsets': np.cumsum([0, *map(len, files)]),
    'label': np.arange(count) % 2,
    'labels': np.array(['plain', 'rough']),
    'split': np.array([0, 1, 0, 0, 1, 0][:count], np.uint8),
  }
  return arrays, pixels


@pytest.fixture
def save(tmp_path):
  def write(**changes):
    arrays = {**_arrays()[0], **changes}
    path = tmp_path / 'images.npz'
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path

  return write


def _spec(path):
  return DataSpec(name='npz', data_dir=str(path))


def test_both_splits_read_back(save):
  path, (_, pixels) = save(), _arrays()
  for split, members in (('train', [0, 2, 3, 5]), ('validation', [1, 4])):
    source = pickle.loads(pickle.dumps(sources.open_source(_spec(path), split)))
    assert len(source) == len(members)
    assert source.class_names == ('plain', 'rough')
    assert source.num_classes == 2
    for index, member in enumerate(members):
      example = source[index]
      np.testing.assert_array_equal(example['image'], pixels[member])
      assert (example['label'], example['id']) == (member % 2, str(member))


def test_fingerprint_is_of_content_and_split(save):
  path = save()
  train, val = (sources.open_source(_spec(path), s) for s in sources.SPLITS)
  before = train.fingerprint
  assert before != val.fingerprint
  assert packed.open_packed(str(save()), 'train').fingerprint == before
  changed = packed.open_packed(str(save(label=np.ones(6, int))), 'train')
  assert changed.fingerprint != before


def test_code_points_split_an_archive_without_a_stored_split(save):
  codes = ['1F600', '2764-FE0F', '2764', '1F44B', '1F44B-1F3FB', '1F44B-1F3FF']
  path = save(split=None, emoji=np.array(codes))
  wanted = [
    i for i, c in enumerate(codes) if code_points.split_of(c) == 'train'
  ]
  source = packed.open_packed(str(path), 'train')
  assert [int(source[i]['id']) for i in range(len(source))] == wanted
  # The same emoji in another presentation is never on the other side.
  assert len({code_points.split_of(code) for code in codes[3:]}) == 1
  assert code_points.split_of(codes[1]) == code_points.split_of(codes[2])


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'offsets': None}, "no 'offsets'"),
    ({'labels': None}, 'no labels'),
    ({'split': None}, "no 'split' or 'emoji'"),
    ({'offsets': np.arange(7)}, 'must rise from 0'),
    ({'offsets': np.arange(5)}, 'must have 7 entries'),
    ({'label': np.full(6, 2)}, r'labels must be in \[0, 2\)'),
    ({'split': np.full(6, 2)}, 'split must be 0 or 1'),
    ({'split': np.zeros(6, int)}, 'validation split is empty'),
    ({'webp': np.zeros((2, 3))}, 'webp must be one row of bytes'),
    ({'label': np.array([None] * 6)}, 'cannot be loaded'),
  ],
)
def test_what_does_not_fit_together_is_refused(save, changes, said):
  with pytest.raises(errors.DataError, match=said) as caught:
    sources.open_source(_spec(save(**changes)), 'validation')
  assert 'images.npz' in str(caught.value)


def test_a_damaged_image_and_a_damaged_file_are_named(save, tmp_path):
  webp = _arrays()[0]['webp'].copy()
  webp[:20] = 0
  source = sources.open_source(_spec(save(webp=webp)), 'train')
  with pytest.raises(errors.DataError, match=r'images\.npz: image 0'):
    source[0]
  cut = tmp_path / 'cut.npz'
  cut.write_bytes(save().read_bytes()[:200])
  with pytest.raises(errors.DataError, match=r'cut\.npz'):
    sources.open_source(_spec(cut), 'train')
  with pytest.raises(errors.DataError, match='no such file'):
    sources.open_source(_spec(tmp_path / 'none.npz'), 'train')
  with pytest.raises(errors.DataError, match='data_dir is empty'):
    sources.open_source(_spec(''), 'train')

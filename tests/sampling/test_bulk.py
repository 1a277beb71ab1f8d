"""Bulk files: resumption, refusals and what the evaluator can read."""

import json
import zipfile

import numpy as np
import pytest

from varjax import errors
from varjax.sampling import bulk

COUNT = 11
SETTINGS = {'weights': 'run a at update 3', 'seed': 0, 'cfg': 1.5}


class Maker:
  """Images whose bytes are their index; counts and can be cut off."""

  def __init__(self, fail_at=None):
    self.made = []
    self.fail_at = fail_at

  def __call__(self, index):
    if self.fail_at in index:
      raise KeyboardInterrupt
    self.made += list(index)
    shape = np.reshape(index, (-1, 1, 1, 1))
    return np.broadcast_to(shape, (len(index), 2, 3, 3)).astype(np.uint8)


def _write(out, maker, **changes):
  settings = SETTINGS | changes
  return bulk.write(out, maker, COUNT, settings, shard_images=4)


def test_interrupted_equals_uninterrupted(tmp_path):
  whole, cut = tmp_path / 'a' / 'whole.npz', tmp_path / 'cut.npz'
  assert _write(whole, Maker())
  first, second = Maker(fail_at=9), Maker()
  with pytest.raises(KeyboardInterrupt):
    _write(cut, first)
  assert first.made == list(range(8))
  assert not cut.exists()
  assert _write(cut, second)
  assert second.made == [8, 9, 10]
  assert cut.read_bytes() == whole.read_bytes()
  images = np.load(cut)['arr_0']
  assert images.shape == (COUNT, 2, 3, 3)
  assert images.dtype == np.uint8
  np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(COUNT))
  assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
    'cut.npz',
    'cut.npz.json',
  ]
  assert not (tmp_path / 'cut.npz.shards').exists()


def test_a_complete_file_is_not_made_again(tmp_path):
  out = tmp_path / 'x.npz'
  _write(out, Maker())
  before = out.stat().st_mtime_ns
  again = Maker()
  assert not _write(out, again)
  assert not again.made
  assert out.stat().st_mtime_ns == before


def test_the_evaluator_can_stream_it(tmp_path):
  """guided-diffusion reads the header and the rows of the stored member."""
  out = tmp_path / 'x.npz'
  _write(out, Maker())
  with (
    zipfile.ZipFile(out) as archive,
    archive.open('arr_0.npy') as member,
  ):
    assert archive.testzip() is None
    assert np.lib.format.read_magic(member) == (1, 0)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    assert (shape, fortran, dtype) == ((COUNT, 2, 3, 3), False, np.uint8)
    assert len(member.read()) == COUNT * 18


@pytest.mark.parametrize('finished', [False, True])
def test_other_settings_are_refused(tmp_path, finished):
  out = tmp_path / 'x.npz'
  maker = Maker(fail_at=None if finished else 5)
  try:
    _write(out, maker)
  except KeyboardInterrupt:
    assert not finished
  kept = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}
  with pytest.raises(errors.ConfigError, match=r'cfg=1.5 there, 2.0 here'):
    _write(out, Maker(), cfg=2.0)
  assert kept == {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}


def test_files_of_others_are_not_touched(tmp_path):
  out = tmp_path / 'x.npz'
  out.write_bytes(b'mine')
  with pytest.raises(errors.ConfigError, match='choose another file'):
    _write(out, Maker())
  assert out.read_bytes() == b'mine'


def test_a_damaged_shard_is_named(tmp_path):
  out = tmp_path / 'x.npz'
  with pytest.raises(KeyboardInterrupt):
    _write(out, Maker(fail_at=9))
  shard = tmp_path / 'x.npz.shards' / '00000004.npy'
  shard.write_bytes(shard.read_bytes()[:-7])
  with pytest.raises(errors.DataError, match=r'00000004\.npy: is damaged'):
    _write(out, Maker())
  assert not out.exists()
  shard.unlink()
  assert _write(out, Maker())


def test_a_damaged_manifest_is_named(tmp_path):
  manifest = tmp_path / 'x.npz.json'
  manifest.write_text('{')
  with pytest.raises(errors.DataError, match='not JSON'):
    _write(tmp_path / 'x.npz', Maker())
  manifest.unlink()
  _write(tmp_path / 'x.npz', Maker())
  assert json.loads(manifest.read_text())['images'] == COUNT


def test_processes_take_turns(tmp_path, monkeypatch):
  out = tmp_path / 'x.npz'
  monkeypatch.setattr(bulk, '_barrier', lambda _: None)
  monkeypatch.setattr(bulk.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(bulk.jax, 'process_index', lambda: 1)
  (tmp_path / 'x.npz.json').write_text(
    json.dumps({'format': 1, 'images': COUNT, 'shard_images': 4, **SETTINGS})
  )
  second = Maker()
  _write(out, second)
  assert second.made == [4, 5, 6, 7]
  assert not out.exists()
  monkeypatch.setattr(bulk.jax, 'process_index', lambda: 0)
  first = Maker()
  _write(out, first)
  assert first.made == [0, 1, 2, 3, 8, 9, 10]
  images = np.load(out)['arr_0']
  np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(COUNT))

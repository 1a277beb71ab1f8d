"""One cache written by several processes (threads here, one per share)."""

import shutil
import threading

import pytest
import test_codes

from varjax import errors
from varjax.data.unfinished import Share


def _encode_together(folder, count, encode_fns=None):
  """Runs one share per thread; returns (manifests, errors)."""
  meeting = threading.Barrier(count, timeout=30)
  results, failures = {}, {}

  def work(index):
    share = Share(index, count, lambda _: meeting.wait())
    fn = (encode_fns or {}).get(index, test_codes.fake_encode)
    try:
      results[index] = test_codes._encode(folder, fn, share=share)
    except BaseException as error:
      failures[index] = error
      meeting.abort()

  threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
  return results, failures


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  folder = tmp_path_factory.mktemp('alone')
  return folder, test_codes._encode(folder)


@pytest.mark.parametrize('count', [2, 3])
def test_shares_write_the_same_bytes(alone, tmp_path, count):
  results, failures = _encode_together(tmp_path, count)
  assert not failures
  assert all(manifest == alone[1] for manifest in results.values())
  assert test_codes._content(tmp_path) == test_codes._content(alone[0])


def test_killed_share_is_finished_by_another_number(alone, tmp_path):
  calls = []

  def die(images):
    calls.append(len(images))
    if len(calls) == 3:
      raise RuntimeError('lost')
    return test_codes.fake_encode(images)

  _, failures = _encode_together(tmp_path, 2, {1: die})
  assert str(failures[1]) == 'lost'
  kept = list((tmp_path / 'train').glob('view*'))
  assert kept
  before = {path: path.stat().st_mtime_ns for path in kept}
  results, failures = _encode_together(tmp_path, 3)
  assert not failures
  assert results[0] == alone[1]
  assert test_codes._content(tmp_path) == test_codes._content(alone[0])
  assert {p: p.stat().st_mtime_ns for p in kept} == before


def test_notes_of_another_encode_are_refused(tmp_path):
  _, failures = _encode_together(
    tmp_path, 2, {1: lambda images: 1 / 0 and images}
  )
  assert failures
  with pytest.raises(errors.DataError, match=r'process-\d/manifest.*seed'):
    test_codes._encode(tmp_path, seed=9)
  shutil.rmtree(tmp_path / 'train')

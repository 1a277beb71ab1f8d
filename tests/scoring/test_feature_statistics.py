"""Descriptors and moments of image sets, on one process and on several."""

import jax
import numpy as np
from picture_sets import all_of, pictures
import pytest
import tiny_network

from varjax import errors
from varjax.evals import moments
from varjax.scoring import images, statistics


def test_statistics_are_those_of_all_images_at_once(network, real, seen):
  found = jax.device_get(network.apply(network.params, all_of(real)))
  np.testing.assert_allclose(seen.features, found.pooled, atol=1e-5)
  np.testing.assert_allclose(seen.logits, found.logits, atol=1e-5)
  np.testing.assert_allclose(seen.pooled.mean, found.pooled.mean(0), atol=1e-6)
  np.testing.assert_allclose(
    seen.spatial.covariance,
    np.cov(found.spatial.astype('f8'), rowvar=False),
    atol=1e-6,
  )


@pytest.mark.parametrize('count', [40, 33, 9])
def test_processes_share_a_set_and_agree(network, monkeypatch, count):
  """Two processes, one after the other, with the messages between them."""
  found = images.of_array(pictures(40)[:count], 'real')
  whole = statistics.Extractor(network, 8)(found)
  sent: dict[int, list] = {0: [], 1: []}
  monkeypatch.setattr(jax, 'process_count', lambda: 2)

  def share(process, answer):
    monkeypatch.setattr(jax, 'process_index', lambda: process)
    monkeypatch.setattr(moments, 'gather', answer)
    return statistics.Extractor(network, 8)(found)

  for process in (0, 1):
    share(process, lambda v, p=process: sent[p].append(v) or np.stack([v, v]))
  assert [len(messages) for messages in sent.values()] == [4, 4]
  for process in (0, 1):
    answers = iter(
      [np.stack(pair) for pair in zip(*sent.values(), strict=True)]
    )
    shared = share(process, lambda _, a=answers: next(a))
    np.testing.assert_array_equal(shared.features, whole.features)
    np.testing.assert_array_equal(shared.logits, whole.logits)
    for part in ('pooled', 'spatial'):
      mine, theirs = getattr(shared, part), getattr(whole, part)
      np.testing.assert_allclose(mine.mean, theirs.mean, atol=1e-12)
      np.testing.assert_allclose(mine.covariance, theirs.covariance, atol=1e-12)


def test_what_processes_send_keeps_every_bit():
  values = np.random.default_rng(0).normal(size=(3, 5)) * 1e-300
  received = moments.gather(values)
  assert received.dtype == np.float64
  np.testing.assert_array_equal(received, values[None])


def test_a_reference_is_computed_once(extract, real, seen, tmp_path):
  calls = []
  report = lambda *done: calls.append(done)  # noqa: E731
  first = statistics.keep(extract, real, tmp_path, report)
  assert calls[-1] == (40, 40)
  count = len(calls)
  again = statistics.keep(extract, real, tmp_path, report)
  assert len(calls) == count
  for found in (first, again):
    np.testing.assert_array_equal(found.features, seen.features)
    np.testing.assert_array_equal(
      found.pooled.covariance, seen.pooled.covariance
    )
  # Other images, or another network, are other files.
  statistics.keep(extract, images.of_array(pictures(9), 'few'), tmp_path)
  other = statistics.Extractor(tiny_network.make(seed=1), 8)
  statistics.keep(other, real, tmp_path)
  assert len(list(tmp_path.glob('*.npz'))) == 3
  for path in tmp_path.glob(f'{real.fingerprint}*'):
    path.write_bytes(path.read_bytes()[:-200])
  with pytest.raises(errors.DataError, match=r'is damaged .* remove it'):
    statistics.keep(extract, real, tmp_path)

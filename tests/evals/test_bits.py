"""Code lengths of residuals: distributions that sum to 1, and fits."""

import numpy as np
import pytest
import scipy.stats

from varjax.evals import bits


@pytest.mark.parametrize('family', bits.FAMILIES)
@pytest.mark.parametrize('scale', [0.01, 0.3, 4.0, 500.0])
@pytest.mark.parametrize('centre', [0.0, 0.49, 100.5, 255.0])
def test_the_masses_of_all_pixels_sum_to_one(family, scale, centre):
  """So the lengths are those of a code that can be decoded."""
  pixels = np.arange(256).astype(np.uint8)[:, None, None, None]
  given = np.full((256, 1, 1, 1), centre)
  lengths = bits.Residual(family, (scale,)).bits(pixels, given)
  assert (lengths >= -1e-9).all()
  np.testing.assert_allclose(np.exp2(-lengths).sum(), 1, atol=1e-9)


@pytest.mark.parametrize(
  ('family', 'oracle'),
  [('laplace', scipy.stats.laplace), ('gaussian', scipy.stats.norm)],
)
def test_masses_are_those_of_scipy(family, oracle):
  rng = np.random.default_rng(0)
  x = rng.integers(1, 255, 50)
  centre = x + rng.normal(0, 6, 50)
  found = bits.Residual(family, (3.0,)).bits(
    x.astype(np.uint8)[:, None, None, None], centre[:, None, None, None]
  )
  mass = oracle.cdf(x + 0.5, centre, 3) - oracle.cdf(x - 0.5, centre, 3)
  np.testing.assert_allclose(found, -np.log2(mass), rtol=1e-6)


def test_far_pixels_are_dear_but_never_impossible():
  pixel = np.array([255, 0], np.uint8)[:, None, None, None]
  for family in bits.FAMILIES:
    found = bits.Residual(family, (1.0,)).bits(pixel, 255.0 - pixel)
    assert np.isfinite(found).all()
    assert (found > 300).all()


@pytest.mark.parametrize(
  ('family', 'oracle'),
  [('laplace', scipy.stats.laplace), ('gaussian', scipy.stats.norm)],
)
def test_a_fit_finds_what_the_errors_are(family, oracle):
  rng = np.random.default_rng(0)
  given = rng.uniform(60, 190, (20, 16, 16, 2))
  scales = np.array([2.0, 9.0])
  errors = oracle.rvs(0, scales, given.shape, random_state=rng)
  images = np.clip(np.round(given + errors), 0, 255).astype(np.uint8)
  found = bits.fit(images, given)
  assert found.family == family
  np.testing.assert_allclose(found.scales, scales, rtol=0.05)
  # Other scales code these images worse.
  best = found.bits(images, given).sum()
  for factor in (0.7, 1.4):
    other = bits.Residual(family, tuple(factor * np.array(found.scales)))
    assert other.bits(images, given).sum() > best

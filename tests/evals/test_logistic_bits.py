"""Bits per dimension: a distribution over all values, and its best width."""

import numpy as np
import pytest

from varjax.evals import logistic_bits


@pytest.mark.parametrize('centre', [-1.0, 0.1, 0.97])
@pytest.mark.parametrize('width', [0.05, 3.0, 80.0])
def test_all_values_have_a_mass_of_one(centre, width):
  images = np.broadcast_to(
    np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 1, 1, 3)
  )
  decoded = np.full((256, 1, 1, 3), centre)
  # One of three channels at a time: the others are common to all images.
  flat = images.copy()
  flat[..., 1:] = 7
  nats = logistic_bits.residual_nats(flat, decoded, np.full(3, width))
  constant = logistic_bits.residual_nats(
    flat[:1, :, :, 1:], decoded[:1, :, :, 1:], np.full(2, width)
  )
  np.testing.assert_allclose(np.exp(-(nats - constant)).sum(), 1, rtol=1e-9)


def test_a_lossless_decoder_costs_nothing():
  images = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
  decoded = images / 127.5 - 1
  assert (logistic_bits.residual_nats(images, decoded, np.ones(3)) == 0).all()
  assert (
    logistic_bits.residual_nats(images, decoded + 0.02, np.ones(3)).min() > 0
  )


def test_the_width_of_planted_noise_is_found():
  rng = np.random.default_rng(0)
  centre = rng.uniform(80, 170, (40, 8, 8, 3))
  widths = np.asarray([2.0, 5.0, 9.0])
  noisy = centre + rng.logistic(0, 1, centre.shape) * widths
  images = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
  found = logistic_bits.fit_widths(images, centre / 127.5 - 1)
  np.testing.assert_allclose(found, widths, rtol=0.05)
  best = logistic_bits.residual_nats(images, centre / 127.5 - 1, found).mean()
  for other in (0.8, 1.25):
    nats = logistic_bits.residual_nats(
      images, centre / 127.5 - 1, other * found
    )
    assert nats.mean() > best


def test_bits_of_uniform_values_are_eight():
  assert logistic_bits.bits_per_dim(np.log(256) * 192, 192) == pytest.approx(8)

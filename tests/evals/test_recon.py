"""PSNR against its definition on 8-bit images."""

import jax.numpy as jnp
import numpy as np

from varjax.evals import recon


def test_psnr_equals_that_of_8_bit_images():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 4, 4, 3))
  others = np.clip(images + rng.integers(-9, 10, images.shape), 0, 255)
  found = recon.psnr(
    jnp.asarray(images / 127.5 - 1), jnp.asarray(others / 127.5 - 1)
  )
  error = ((images - others) ** 2).mean((1, 2, 3))
  np.testing.assert_allclose(found, 10 * np.log10(255**2 / error), rtol=1e-5)


def test_mse_is_per_image_and_broadcasts():
  images = jnp.zeros((1, 2, 4, 4, 3))
  others = jnp.stack([jnp.full((2, 4, 4, 3), v) for v in (0.5, 1.0, 2.0)])
  found = recon.mse(images, others)
  expected = np.array([[0.25] * 2, [1.0] * 2, [4.0] * 2])
  np.testing.assert_allclose(found, expected)


def test_a_perfect_reconstruction_is_finite():
  images = jnp.ones((2, 4, 4, 3))
  assert np.isfinite(recon.psnr(images, images)).all()
  assert float(recon.psnr(images, images)[0]) > 100

"""Stage-1 losses against what they are by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax.losses import adaptive, augment, blur, hinge

KEY = jax.random.key(0)


def _images(side=8, count=3, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.uniform(-1, 1, (count, side, side, 3)), jnp.float32)


def test_hinge_by_hand():
  real = jnp.array([[2.0, 0.5], [-1.0, 1.0]])
  fake = jnp.array([[-2.0, 0.0], [1.0, -0.5]])
  # relu(1 - real): 0, 0.5, 2, 0; relu(1 + fake): 0, 1, 2, 0.5.
  assert float(hinge.discriminator_loss(real, fake)) == 2.5 / 4 + 3.5 / 4
  assert float(hinge.generator_loss(fake)) == pytest.approx(1.5 / 4)


def test_attached_loss_has_the_value_and_the_gradient():
  images, slope = _images(), _images(seed=1)
  value, gradient = jax.value_and_grad(adaptive.attach)(
    images, jnp.float32(3), slope
  )
  assert float(value) == 3
  np.testing.assert_array_equal(gradient, slope)
  # Neither the value nor the gradient that was given is differentiated.
  given = jax.grad(adaptive.attach, argnums=(1, 2))(
    images, jnp.float32(3), slope
  )
  assert not any(np.any(x) for x in jax.tree.leaves(given))


def test_adaptive_weight_is_the_quotient_of_norms_at_the_last_layer():
  kernel = jax.random.normal(KEY, (3, 3, 2, 3))
  hidden = jax.random.normal(KEY, (3, 8, 8, 2))
  images = _images()

  def decode(kernel):
    return jax.lax.conv_general_dilated(
      hidden, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  def reconstruction(x):
    return jnp.mean(jnp.square(x - images))

  def adversarial(x):
    return jnp.mean(jnp.sin(5 * x))

  output, to_kernel = jax.vjp(decode, kernel)
  weight = adaptive.adaptive_weight(
    to_kernel, jax.grad(reconstruction)(output), jax.grad(adversarial)(output)
  )
  norms = [
    np.linalg.norm(jax.grad(lambda k, f=f: f(decode(k)))(kernel))
    for f in (reconstruction, adversarial)
  ]
  assert float(weight) == pytest.approx(norms[0] / (norms[1] + 1e-6), rel=1e-5)
  zero = jnp.zeros_like(output)
  least = adaptive.adaptive_weight(to_kernel, zero, output)
  most = adaptive.adaptive_weight(to_kernel, output, zero)
  assert (float(least), float(most)) == (pytest.approx(0.015), 1e4)


def test_blur_keeps_constants_spreads_points_and_fades_to_nothing():
  images = _images(side=16)
  np.testing.assert_array_equal(blur.blur(images, jnp.float32(0)), images)
  flat = jnp.full((1, 16, 16, 3), 0.3)
  np.testing.assert_allclose(blur.blur(flat, jnp.float32(2)), flat, atol=1e-6)
  point = jnp.zeros((1, 33, 33, 1)).at[0, 16, 16].set(1)
  spread = np.asarray(blur.blur(point, jnp.float32(1.5)))[0, :, :, 0]
  offsets = np.arange(-16, 17)
  weights = np.exp(-(offsets**2) / (2 * 1.5**2))
  weights /= weights.sum()
  np.testing.assert_allclose(spread, np.outer(weights, weights), atol=1e-6)


def test_translation_moves_whole_pixels_and_brings_in_zeros():
  images = _images(side=8, count=16) + 2  # no pixel is 0
  moved = np.asarray(augment.translate(images, KEY, 0.25))
  seen = set()
  for image, other in zip(np.asarray(images), moved, strict=True):
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    matches = [
      (top, left)
      for top in range(5)
      for left in range(5)
      if np.array_equal(padded[top : top + 8, left : left + 8], other)
    ]
    assert len(matches) == 1
    seen |= set(matches)
  assert len(seen) > 5


def test_cutout_removes_one_square():
  images = _images(side=20, count=64) + 2
  hole = np.asarray(augment.cut_out(images, KEY, 0.25)) == 0
  assert (hole == hole[..., :1]).all()
  hole = hole[..., 0]
  rows, columns = hole.any(2), hole.any(1)
  np.testing.assert_array_equal(hole, rows[:, :, None] & columns[:, None])
  assert rows.sum(1).max() == columns.sum(1).max() == 5  # 0.25 of the side
  assert hole.any((1, 2)).all()


def test_jitter_stays_within_its_ranges():
  images = 0.1 * _images(side=6, count=200)
  out = np.asarray(augment.jitter(images, KEY, 1.0), np.float64)
  shift = out.mean((1, 2, 3)) - np.asarray(images).mean((1, 2, 3))
  assert 0.4 < np.abs(shift).max() <= 0.5 + 1e-6
  # Grey images have no saturation: what is left of their spread is contrast.
  grey = jnp.broadcast_to(images[..., :1], images.shape)
  jittered = np.asarray(augment.jitter(grey, KEY, 1.0))
  scale = jittered.std((1, 2, 3)) / np.asarray(grey).std((1, 2, 3))
  assert 0.5 - 1e-4 <= scale.min() < 0.6
  assert 1.4 < scale.max() <= 1.5 + 1e-4


def test_augmentation_is_a_function_of_its_key_and_differentiable():
  images = _images()
  one, same = (augment.augment(images, KEY) for _ in range(2))
  other = augment.augment(images, jax.random.key(1))
  np.testing.assert_array_equal(one, same)
  assert np.any(one != other)
  np.testing.assert_array_equal(augment.augment(images, KEY, 0, 0, 0), images)
  slope = jax.grad(lambda x: jnp.sum(augment.augment(x, KEY)))(images)
  assert np.isfinite(slope).all()
  assert np.any(slope)

"""Differentiable augmentation of what a discriminator sees.

The same kinds of random change for real images and reconstructions keep a
discriminator from learning few images by heart (DiffAugment, Zhao et al.,
arXiv 2006.10738): colour, translation and cutout, drawn for every image,
all differentiable in the image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Images = Float[Array, 'B H W 3']


def augment(
  images: Images,
  rng: jax.Array,
  translation: float = 0.125,
  colour: float = 1.0,
  cutout: float = 0.2,
) -> Images:
  """Colour, then translation, then cutout; 0 leaves one out.

  Args:
    images: in [-1, 1], not clipped.
    rng: key.
    translation, colour, cutout: strengths; see the functions below.
  """
  for_colour, for_place, for_hole = jax.random.split(rng, 3)
  if colour:
    images = jitter(images, for_colour, colour)
  if translation:
    images = translate(images, for_place, translation)
  if cutout:
    images = cut_out(images, for_hole, cutout)
  return images


def jitter(images: Images, rng: jax.Array, strength: float) -> Images:
  """Random brightness, saturation and contrast.

  At strength 1 brightness moves by up to 0.5, saturation is scaled by 0 to
  2 and contrast by 0.5 to 1.5.
  """
  shape = (3, images.shape[0], 1, 1, 1)
  brightness, saturation, contrast = strength * jax.random.uniform(
    rng, shape, minval=-1.0
  )
  images = images + 0.5 * brightness
  grey = jnp.mean(images, -1, keepdims=True)
  images = grey + (images - grey) * (1 + saturation)
  mean = jnp.mean(images, (1, 2, 3), keepdims=True)
  return mean + (images - mean) * (1 + 0.5 * contrast)


def translate(images: Images, rng: jax.Array, share: float) -> Images:
  """Moves each image by up to `share` of its side; what comes in is 0."""
  batch, height, width, channels = images.shape
  reach = round(height * share), round(width * share)
  padded = jnp.pad(images, ((0, 0), *((r, r) for r in reach), (0, 0)))
  for_rows, for_columns = jax.random.split(rng)
  top = jax.random.randint(for_rows, (batch,), 0, 2 * reach[0] + 1)
  left = jax.random.randint(for_columns, (batch,), 0, 2 * reach[1] + 1)

  def cut(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
    size = (height, width, channels)
    return jax.lax.dynamic_slice(image, (top, left, 0), size)

  return jax.vmap(cut)(padded, top, left)


def cut_out(images: Images, rng: jax.Array, share: float) -> Images:
  """Sets a square of `share` of the side, somewhere in each image, to 0.

  Its centre is anywhere in the image, so that part of it may lie outside.
  """
  batch, height, width = images.shape[:3]
  for_rows, for_columns = jax.random.split(rng)

  def covered(key: jax.Array, side: int) -> jax.Array:
    centre = jax.random.uniform(key, (batch, 1), maxval=side)
    place = jnp.arange(side)[None] + 0.5
    return jnp.abs(place - centre) < share * side / 2  # [B, side]

  rows, columns = covered(for_rows, height), covered(for_columns, width)
  hole = rows[:, :, None] & columns[:, None]
  return jnp.where(hole[..., None], 0.0, images)

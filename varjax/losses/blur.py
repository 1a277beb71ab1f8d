"""A Gaussian blur of the discriminator's input, which fades early on.

At first only coarse structure can be told apart, which keeps the
discriminator from winning at once (StyleGAN-XL, arXiv 2202.00273; the
authors' trainer, vaex).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Beyond this many deviations a Gaussian is cut off.
_REACH = 3


def start_sigma(side: int) -> float:
  """The deviation in pixels at which the fade begins, sqrt(side / 2)."""
  return math.sqrt(side / 2)


def blur(
  images: Float[Array, 'B H H 3'], sigma: Float[Array, '']
) -> Float[Array, 'B H H 3']:
  """Blurs by `sigma` pixels; the border is repeated outwards.

  Args:
    images: square.
    sigma: at most `start_sigma` of the side; 0 or less changes nothing.
  """
  side = images.shape[1]
  reach = math.ceil(_REACH * start_sigma(side))
  offsets = jnp.arange(-reach, reach + 1)

  def blurred(x: jax.Array) -> jax.Array:
    weights = jnp.exp(-jnp.square(offsets / jnp.maximum(sigma, 1e-3)) / 2)
    weights = weights / jnp.sum(weights)
    # As a matrix: a convolution with three channels is slow everywhere.
    source = jnp.clip(jnp.arange(side)[:, None] + offsets[None], 0, side - 1)
    rows = jnp.broadcast_to(jnp.arange(side)[:, None], source.shape)
    taps = jnp.broadcast_to(weights[None], source.shape)
    matrix = jnp.zeros((side, side)).at[rows, source].add(taps)
    return jnp.einsum('ih,bhwc,jw->bijc', matrix, x, matrix)

  return jax.lax.cond(sigma > 0, blurred, lambda x: x, images)

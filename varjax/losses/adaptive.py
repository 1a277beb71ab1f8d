"""The adaptive weight of the adversarial loss, in one backward pass.

VQGAN (arXiv 2012.09841, equation 7) scales the adversarial loss so that its
gradient at the last layer of the decoder is as large as that of the
reconstruction. Both gradients are needed at the image first; `attach` then
sends them on together, so that no network is walked through twice.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.types import PyTree

MIN_WEIGHT, MAX_WEIGHT = 0.015, 1e4  # the authors' trainer (vaex)
_TINY = 1e-6


def adaptive_weight(
  to_layer: Callable[[jax.Array], PyTree],
  reconstruction: Float[Array, 'B H W 3'],
  adversarial: Float[Array, 'B H W 3'],
) -> Float[Array, '']:
  """|d reconstruction / d W| / (|d adversarial / d W| + 1e-6), clamped.

  Args:
    to_layer: from a gradient at the images to that at the weights W of the
      last layer; linear.
    reconstruction, adversarial: gradients of the two losses at the images.
  """
  sizes = [
    jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(gradient)))
    for gradient in (to_layer(reconstruction), to_layer(adversarial))
  ]
  weight = jnp.clip(sizes[0] / (sizes[1] + _TINY), MIN_WEIGHT, MAX_WEIGHT)
  return jax.lax.stop_gradient(weight)


def attach(
  images: Float[Array, 'B H W 3'],
  value: Float[Array, ''],
  gradient: Float[Array, 'B H W 3'],
) -> Float[Array, '']:
  """`value` as a function of `images` that has this gradient.

  Args:
    images: what the loss was computed from.
    value: of the loss; differentiated no further.
    gradient: of the loss at the images.
  """
  fixed = jax.lax.stop_gradient(images)
  # Exactly 0 forwards.
  slope = jnp.sum((images - fixed) * jax.lax.stop_gradient(gradient))
  return jax.lax.stop_gradient(value) + slope

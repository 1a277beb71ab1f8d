"""Distance of image pairs in the maps of a network (LPIPS, arXiv 1801.03924).

Channels are normalised to unit length at each position, squared differences
are weighted by channel and averaged over space, and layers are summed. With
the learned weights of LPIPS it is LPIPS. Without weights, channels are
averaged, so that a layer of C channels adds (2 / C) (1 - cosine) of the two
vectors at a position. The unlearned baseline of that paper sums them: there
every layer adds up to 4, here a wide, deep layer counts less than a narrow,
shallow one (of EfficientNet-Lite0, 320 channels a twentieth of 16).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EPS = 1e-10


def distance(
  maps_a: Sequence[jax.Array],
  maps_b: Sequence[jax.Array],
  weights: Sequence[jax.Array] | None = None,
) -> Float[Array, ' B']:
  """Perceptual distance of each pair; 0 for equal maps, differentiable.

  Args:
    maps_a, maps_b: [B, h, w, C] of each layer, see `Features.maps`.
    weights: [C] of each layer, not negative; None weighs every channel of
      a layer 1 / C.
  """
  total = jnp.zeros(maps_a[0].shape[0])
  for layer, (a, b) in enumerate(zip(maps_a, maps_b, strict=True)):
    squared = jnp.square(_unit(a) - _unit(b))
    if weights is None:
      by_pixel = squared.mean(-1)
    else:
      by_pixel = squared @ weights[layer]
    total = total + by_pixel.mean((1, 2))
  return total


def _unit(x: jax.Array) -> jax.Array:
  # The gradient of a norm at 0 is not a number, so the root is kept from 0.
  squared = jnp.sum(jnp.square(x), -1, keepdims=True)
  length = jnp.sqrt(jnp.maximum(squared, _EPS**2))
  return x / (length + _EPS)

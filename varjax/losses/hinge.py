"""The hinge loss of two networks that train against each other.

Lim & Ye, Geometric GAN (arXiv 1705.02894), as VQGAN (arXiv 2012.09841)
uses it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def discriminator_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
  """mean relu(1 - D(real)) + mean relu(1 + D(fake)), over all logits."""
  return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))


def generator_loss(fake: jax.Array) -> jax.Array:
  """-mean D(fake), over all logits."""
  return -jnp.mean(fake)

"""Discriminators of stage 1. `DISCRIMINATORS` names every kind."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from varjax.discriminators.base import Discriminator
from varjax.discriminators.dino import DinoDiscriminator
from varjax.discriminators.patch import PatchDiscriminator
from varjax.spec import AdversarialSpec

DISCRIMINATORS = {'patch': PatchDiscriminator, 'dino': DinoDiscriminator}


def make_discriminator(
  spec: AdversarialSpec, resolution: int, dtype: Any = jnp.float32
) -> Discriminator:
  """The discriminator that a spec describes; `validation` knows its name.

  Raises:
    ConfigError: one that does not fit images of this side.
  """
  return DISCRIMINATORS[spec.discriminator](spec, resolution, dtype)

"""The adversarial half of stage 1: a discriminator against the tokenizer.

Both networks are trained in the same update from the same reconstructions
(VQGAN, arXiv 2012.09841; schedule, augmentation and consistency of the
authors' trainer, FoundationVision/vaex). Everything here is differentiated
at the reconstructions; `tasks.reconstruct` sends that on to the tokenizer.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax import rng as rngs
from varjax.discriminators import make_discriminator
from varjax.discriminators.base import Discriminator
from varjax.losses import augment, blur, hinge
from varjax.schedule import AdversarialSteps
from varjax.spec import AdversarialSpec
from varjax.types import PyTree

Images = Float[Array, 'B H W 3']


@dataclasses.dataclass(frozen=True)
class Adversary:
  """Losses of both sides at a given update.

  Attributes:
    spec: strengths.
    resolution: side of the images.
    dtype: of the discriminator's arithmetic.
    steps: when what happens.
  """

  spec: AdversarialSpec
  resolution: int
  dtype: Any
  steps: AdversarialSteps | None = None

  @functools.cached_property
  def discriminator(self) -> Discriminator:
    """The network that is trained beside the tokenizer."""
    return make_discriminator(self.spec, self.resolution, self.dtype)

  def weight(self, updates: jax.Array) -> jax.Array:
    """Weight of the generator's loss, before the adaptive one.

    Args:
      updates: made so far, at least `steps.start`.
    """
    warmup = self._steps.warmup
    if not warmup:
      return jnp.float32(self.spec.weight)
    done = (updates - self._steps.start + 1) / warmup
    return self.spec.weight * jnp.clip(done, 0.0, 1.0)

  @jax.named_scope('discriminator')
  def generator_loss(
    self,
    fakes: Images,
    weights: PyTree,
    frozen: PyTree,
    updates: jax.Array,
    rng: jax.Array,
  ) -> jax.Array:
    """What the tokenizer is to lower, unweighted.

    Args:
      fakes: reconstructions; the gradient is to be taken at them.
      weights: of the discriminator, prepared.
      frozen: of the network that it reads.
      updates: made so far.
      rng: key.
    """
    weights = jax.lax.stop_gradient(weights)
    seen = self._strong(self._blur(fakes, updates), rngs.stream(rng, 'strong'))
    logits = self._logits(weights, frozen, seen, rng)
    return hinge.generator_loss(logits)

  @jax.named_scope('discriminator')
  def discriminator_loss(
    self,
    weights: PyTree,
    images: Images,
    fakes: Images,
    frozen: PyTree,
    updates: jax.Array,
    rng: jax.Array,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What the discriminator is to lower, and metrics.

    The hinge loss, and how much its logits change between a strong
    augmentation and a weak one, a translation (bCR, Zhao et al., arXiv
    2002.04724).

    Args:
      weights: of the discriminator, prepared.
      images, fakes: real ones and reconstructions.
      frozen: of the network that it reads.
      updates: made so far.
      rng: key.
    """
    total, logits = jnp.float32(0), {}
    for name, x in (('real', images), ('fake', fakes)):
      key = rngs.stream(rng, name)
      x = self._blur(jax.lax.stop_gradient(x), updates)
      strong = self._strong(x, rngs.stream(key, 'strong'))
      logits[name] = self._logits(weights, frozen, strong, key)
      if self.spec.consistency:
        weak = augment.augment(
          x,
          rngs.stream(key, 'weak'),
          translation=self.spec.translation,
          colour=0,
          cutout=0,
        )
        change = logits[name] - self._logits(weights, frozen, weak, key)
        total += self.spec.consistency * jnp.mean(jnp.square(change))
    total += hinge.discriminator_loss(logits['real'], logits['fake'])
    metrics = {f'logits_{k}': jnp.mean(v) for k, v in logits.items()}
    return total, {'loss_discriminator': total, **metrics}

  @property
  def _steps(self) -> AdversarialSteps:
    assert self.steps is not None
    return self.steps

  def _logits(
    self, weights: PyTree, frozen: PyTree, images: Images, rng: jax.Array
  ) -> jax.Array:
    crop = rngs.stream(rng, 'crop')
    return self.discriminator.logits(weights, frozen, images, crop)

  def _strong(self, images: Images, rng: jax.Array) -> Images:
    spec = self.spec
    return augment.augment(
      images, rng, spec.translation, spec.colour, spec.cutout
    )

  def _blur(self, images: Images, updates: jax.Array) -> Images:
    """What is left of the fading blur."""
    length = self._steps.blur
    if not length:
      return images
    left = 1 - (updates - self._steps.start) / length
    sigma = blur.start_sigma(self.resolution) * jnp.maximum(left, 0.0)
    return blur.blur(images, sigma)

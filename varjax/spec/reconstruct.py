"""The losses of stage 1, which trains a tokenizer."""

from __future__ import annotations

import dataclasses

from varjax.spec.duration import Duration
from varjax.spec.fields import not_identity
from varjax.spec.optim import OptimSpec


@dataclasses.dataclass(frozen=True)
class PerceptualSpec:
  """The perceptual loss of stage 1, and its metric in evaluations.

  Attributes:
    backbone: key of `losses.perceptual.PERCEPTUAL`; '' is no such loss.
    weights: file with the backbone's weights, for one that ships in no
      package ('lpips_vgg16' also takes two, VGG,LINEAR). Its content, not
      its path, is part of the run id.
    weight: of the loss; 0 only measures the distance.
    resolution: side that images are resized to first; 0 leaves them.
  """

  backbone: str = ''
  weights: str = not_identity('')
  weight: float = 1.0
  resolution: int = 0


@dataclasses.dataclass(frozen=True)
class AdversarialSpec:
  """The adversarial loss of stage 1 (VQGAN; the authors' trainer vaex).

  Attributes:
    discriminator: key of `discriminators.DISCRIMINATORS`; '' is none.
    weights: file with the weights of the frozen network that 'dino' reads.
      Its content, not its path, is part of the run id.
    ch, layers: width and down-sampling steps of 'patch'.
    weight: of the generator's loss, before the adaptive weight.
    adaptive: also scale it to the size of the reconstruction gradient at
      the last layer of the decoder.
    start: from when on there is an adversarial loss.
    warmup: over which its weight rises from 0.
    blur: over which a blur of the discriminator's input fades; 0 is none.
    translation, colour, cutout: strength of the differentiable augmentation
      of what the discriminator sees; shares of the side, and of 1.
    consistency: weight of the consistency between a strong and a weak
      augmentation.
    optim: of the discriminator; its schedule begins at `start`, and its
      `accumulate` is not read.
  """

  discriminator: str = ''
  weights: str = not_identity('')
  ch: int = 64
  layers: int = 3
  weight: float = 0.4
  adaptive: bool = True
  start: Duration = Duration(frac=0.2)
  warmup: Duration = Duration(frac=0.02)
  blur: Duration = Duration(frac=0.04)
  translation: float = 0.125
  colour: float = 1.0
  cutout: float = 0.2
  consistency: float = 4.0
  optim: OptimSpec = OptimSpec(
    lr=3e-4,
    schedule='cos',
    warmup=Duration(frac=0.01),
    final=0.3,
    beta1=0.5,
    beta2=0.9,
    weight_decay=5e-4,
    clip_norm=10.0,
  )


@dataclasses.dataclass(frozen=True)
class ReconstructSpec:
  """The stage-1 losses (VAR equation 5).

  Attributes:
    l1, l2: weights of the absolute and the squared error of pixels.
    quantize: weight of the quantiser's loss.
    perceptual, adversarial: further losses, off by default.
  """

  l1: float = 0.2
  l2: float = 1.0
  quantize: float = 1.0
  perceptual: PerceptualSpec = PerceptualSpec()
  adversarial: AdversarialSpec = AdversarialSpec()

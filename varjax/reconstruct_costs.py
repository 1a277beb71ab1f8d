"""What an update of stage 1 costs: tokenizer, frozen networks, discriminator.

Forward FLOPs and layer outputs of each network from its published shape, and
how often an update runs it. No JAX in here. Conventions: docs/flops.md.
"""

from __future__ import annotations

import dataclasses
import itertools

from varjax import backbone_costs, schedule
from varjax.spec import AdversarialSpec, PerceptualSpec, RunSpec
from varjax.tokenizer_costs import (
  Layer,
  tokenizer_flops_per_image,
  tokenizer_parameter_counts,
)

_FLOPS = 2  # a multiply and an add
# Times that a layer's output is written or read, at the least: forwards once
# each; with a backward pass it is read once more, and its gradient is written
# and read.
FORWARD_MOVES, TRAINING_MOVES = 2, 5
# Heads of the DINO discriminator, and the kernel of their convolution.
_DINO_HEADS, _DINO_KERNEL = 5, 9
# Channels of PatchGAN stop growing at this multiple.
_PATCH_MAX = 8


@dataclasses.dataclass(frozen=True)
class Work:
  """FLOPs of the updates of a stage-1 run so far.

  Attributes:
    tokenizer: forward and backward passes of what is trained.
    perceptual: the frozen network of the perceptual loss.
    discriminator: its own training, its frozen backbone, and the gradient
      that it gives to the tokenizer.
  """

  tokenizer: int
  perceptual: int
  discriminator: int

  @property
  def total(self) -> int:
    """All of it."""
    return self.tokenizer + self.perceptual + self.discriminator


def work(run: RunSpec, steps: schedule.Steps, done: int) -> Work:
  """What the first `done` updates of a `reconstruct` run compute.

  Args:
    run: of stage 1.
    steps: its durations.
    done: updates.
  """
  images = done * run.batch_size
  late = 0
  if steps.adversarial is not None:
    late = max(0, done - steps.adversarial.start) * run.batch_size
  return Work(
    tokenizer=images * tokenizer_flops_per_image(run.tokenizer, 'train'),
    perceptual=images * perceptual_flops(run),
    discriminator=late * discriminator_flops(run),
  )


def update_flops_per_image(run: RunSpec) -> int:
  """FLOPs of an image in an update with every loss, as after the start."""
  networks = perceptual_flops(run) + discriminator_flops(run)
  return tokenizer_flops_per_image(run.tokenizer, 'train') + networks


def perceptual_flops(run: RunSpec) -> int:
  """Of one training image: both images forward, one gradient backward.

  A frozen network has no gradient of its weights, so its backward pass is
  one forward pass.
  """
  spec = run.reconstruct.perceptual
  if not spec.backbone or not spec.weight:
    return 0
  return 3 * perceptual_forward(spec, run.data.resolution)


def perceptual_forward(spec: PerceptualSpec, resolution: int) -> int:
  """FLOPs of the maps of one image."""
  return _perceptual(spec, resolution).flops


def discriminator_flops(run: RunSpec) -> int:
  """Of one training image once there is an adversarial loss.

  The tokenizer's loss is one pass forward and one back to the image; the
  discriminator's is, for the real and the reconstructed image and for both
  of their augmentations, forward and backward in what is trained and
  forward in what is frozen.
  """
  spec = run.reconstruct.adversarial
  if not spec.discriminator:
    return 0
  trained, frozen = discriminator_forward(spec, run.data.resolution)
  seen = 4 if spec.consistency else 2
  return 2 * (trained + frozen) + seen * (3 * trained + frozen)


def discriminator_forward(
  spec: AdversarialSpec, resolution: int
) -> tuple[int, int]:
  """FLOPs of one image in the trained and in the frozen part."""
  if spec.discriminator == 'patch':
    return _patch(spec, resolution), 0
  width, rows = backbone_costs.VIT_WIDTH, backbone_costs.VIT_PATCHES
  head = width * width * (1 + _DINO_KERNEL) + width
  return _DINO_HEADS * _FLOPS * rows * head, backbone_costs.vit().flops


def discriminator_parameters(spec: AdversarialSpec) -> int:
  """Trained weights of the discriminator; 0 without one."""
  if spec.discriminator == 'patch':
    widths = _patch_widths(spec)
    kernels = sum(16 * a * b for a, b in itertools.pairwise(widths))
    # The first and the last layer have a bias, the others a norm.
    return kernels + widths[1] + 1 + 2 * sum(widths[2:-1])
  if spec.discriminator == 'dino':
    width = backbone_costs.VIT_WIDTH
    layers = width * width * (1 + _DINO_KERNEL) + 2 * width
    return _DINO_HEADS * (layers + 4 * width + width + 1)
  return 0


def frozen_parameters(run: RunSpec) -> int:
  """Weights of the networks that a run of stage 1 looks through."""
  losses, total = run.reconstruct, 0
  if losses.perceptual.backbone:
    total += _perceptual(losses.perceptual, run.data.resolution).params
  if losses.adversarial.discriminator == 'dino':
    total += backbone_costs.vit().params
  return total


def loss_activations(run: RunSpec) -> int:
  """Values of a training image that are alive beside the tokenizer's.

  The perceptual loss, the adversarial loss of the tokenizer and the loss of
  the discriminator are computed one after the other, each forward and at
  once backward, so that the largest counts. Every convolution's output is
  kept once, and what a normalisation or an attention makes of it once more.
  Of the perceptual network only the pass over the reconstruction is kept.
  """
  spec, side = run.reconstruct.perceptual, run.data.resolution
  kept = [0]
  if spec.backbone and spec.weight:
    kept.append(_perceptual(spec, side).outputs)
  adversarial = run.reconstruct.adversarial
  if adversarial.discriminator:
    trained, frozen = _discriminator_outputs(adversarial, side)
    seen = 4 if adversarial.consistency else 2
    kept += [trained + frozen, seen * trained]
  return max(kept)


def loss_values_moved(run: RunSpec) -> tuple[int, int]:
  """Values of a training image that its losses write and read, at the least.

  As many passes as `perceptual_flops` and `discriminator_flops` count.

  Returns:
    Those of the perceptual network and those of the discriminator.
  """
  spec, perceptual, against = run.reconstruct.perceptual, 0, 0
  if spec.backbone and spec.weight:
    outputs = _perceptual(spec, run.data.resolution).outputs
    perceptual = (FORWARD_MOVES + TRAINING_MOVES) * outputs
  adversarial = run.reconstruct.adversarial
  if adversarial.discriminator:
    trained, frozen = _discriminator_outputs(adversarial, run.data.resolution)
    seen = 4 if adversarial.consistency else 2
    against = TRAINING_MOVES * (trained + frozen)
    against += seen * (TRAINING_MOVES * trained + FORWARD_MOVES * frozen)
  return perceptual, against


def trained_parameters(run: RunSpec) -> int:
  """Weights that a run of stage 1 updates, both networks."""
  tokenizer = tokenizer_parameter_counts(run.tokenizer).total
  return tokenizer + discriminator_parameters(run.reconstruct.adversarial)


def _patch_widths(spec: AdversarialSpec) -> list[int]:
  """Channels before and after each convolution."""
  inner = [spec.ch * min(2**n, _PATCH_MAX) for n in range(spec.layers + 1)]
  return [3, *inner, 1]


def _perceptual(spec: PerceptualSpec, resolution: int) -> Layer:
  cost = {
    'efflite0': backbone_costs.efflite0,
    'lpips_vgg16': backbone_costs.lpips_vgg16,
  }
  return cost[spec.backbone](spec.resolution or resolution)


def _discriminator_outputs(spec: AdversarialSpec, side: int) -> tuple[int, int]:
  """Values that one image leaves in the trained and in the frozen part."""
  if spec.discriminator == 'patch':
    widths, sides = _patch_widths(spec)[1:], _patch_sides(spec, side)
    outputs = [w * s * s for w, s in zip(widths, sides, strict=True)]
    # A norm is behind all but the first and the last.
    return sum(outputs) + sum(outputs[1:-1]), 0
  width, rows = backbone_costs.VIT_WIDTH, backbone_costs.VIT_PATCHES
  # Two convolutions and the norm after each, and one logit.
  heads = _DINO_HEADS * rows * (4 * width + 1)
  return heads, backbone_costs.vit().outputs


def _patch_sides(spec: AdversarialSpec, side: int) -> list[int]:
  """Sides after each convolution: kernel 4, padding 1."""
  sides = []
  for layer in range(spec.layers + 2):
    side = (side - 2) // (2 if layer < spec.layers else 1) + 1
    sides.append(side)
  return sides


def _patch(spec: AdversarialSpec, side: int) -> int:
  return sum(
    _FLOPS * 16 * a * b * side * side
    for (a, b), side in zip(
      itertools.pairwise(_patch_widths(spec)),
      _patch_sides(spec, side),
      strict=True,
    )
  )

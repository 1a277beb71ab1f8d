"""What an update of stage 1 costs: tokenizer, frozen networks, discriminator.

Forward FLOPs of each network from its published shape, and how often an
update runs it. No JAX in here. Conventions: docs/flops.md.
"""

from __future__ import annotations

import dataclasses
import itertools

from varjax import schedule
from varjax.spec import AdversarialSpec, PerceptualSpec, RunSpec
from varjax.tokenizer_costs import (
  tokenizer_flops_per_image,
  tokenizer_parameter_counts,
)

_FLOPS = 2  # a multiply and an add
# EfficientNet-Lite0: channels in and out, kernel, stride, expansion.
EFFLITE0_STEM = 32
EFFLITE0 = (
  (32, 16, 3, 1, 1),
  (16, 24, 3, 2, 6), (24, 24, 3, 1, 6),
  (24, 40, 5, 2, 6), (40, 40, 5, 1, 6),
  (40, 80, 3, 2, 6), (80, 80, 3, 1, 6), (80, 80, 3, 1, 6),
  (80, 112, 5, 1, 6), (112, 112, 5, 1, 6), (112, 112, 5, 1, 6),
  (112, 192, 5, 2, 6), (192, 192, 5, 1, 6), (192, 192, 5, 1, 6),
  (192, 192, 5, 1, 6),
  (192, 320, 3, 1, 6),
)  # fmt: skip
# Widths of the convolutions of VGG16, by resolution.
VGG16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
# DINO ViT-S/16 on 224 x 224, and the heads of the discriminator.
_VIT_DEPTH, _VIT_WIDTH, _VIT_PATCHES, _VIT_PATCH = 12, 384, 196, 16
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
  side = spec.resolution or resolution
  count = {'efflite0': _efflite0, 'lpips_vgg16': _vgg16}
  return count[spec.backbone](side)


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
  width, rows = _VIT_WIDTH, _VIT_PATCHES
  head = width * width * (1 + _DINO_KERNEL) + width
  return _DINO_HEADS * _FLOPS * rows * head, _vit()


def discriminator_parameters(spec: AdversarialSpec) -> int:
  """Trained weights of the discriminator; 0 without one."""
  if spec.discriminator == 'patch':
    widths = _patch_widths(spec)
    kernels = sum(16 * a * b for a, b in itertools.pairwise(widths))
    # The first and the last layer have a bias, the others a norm.
    return kernels + widths[1] + 1 + 2 * sum(widths[2:-1])
  if spec.discriminator == 'dino':
    width = _VIT_WIDTH
    layers = width * width * (1 + _DINO_KERNEL) + 2 * width
    return _DINO_HEADS * (layers + 4 * width + width + 1)
  return 0


def trained_parameters(run: RunSpec) -> int:
  """Weights that a run of stage 1 updates, both networks."""
  tokenizer = tokenizer_parameter_counts(run.tokenizer).total
  return tokenizer + discriminator_parameters(run.reconstruct.adversarial)


def _patch_widths(spec: AdversarialSpec) -> list[int]:
  """Channels before and after each convolution."""
  inner = [spec.ch * min(2**n, _PATCH_MAX) for n in range(spec.layers + 1)]
  return [3, *inner, 1]


def _patch(spec: AdversarialSpec, side: int) -> int:
  total, widths = 0, _patch_widths(spec)
  for layer, (a, b) in enumerate(itertools.pairwise(widths)):
    stride = 2 if layer < spec.layers else 1
    side = (side - 2) // stride + 1  # kernel 4, padding 1
    total += _FLOPS * 16 * a * b * side * side
  return total


def _efflite0(side: int) -> int:
  side = -(-side // 2)
  total = 9 * 3 * EFFLITE0_STEM * side * side
  for before, after, kernel, stride, expansion in EFFLITE0:
    hidden = before * expansion
    if expansion > 1:
      total += before * hidden * side * side
    side = -(-side // stride)
    total += (kernel * kernel + after) * hidden * side * side
  return _FLOPS * total


def _vgg16(side: int) -> int:
  total, before = 0, 3
  for widths in VGG16:
    for after in widths:
      total += 9 * before * after * side * side
      before = after
    side //= 2
  return _FLOPS * total


def _vit() -> int:
  width, rows = _VIT_WIDTH, _VIT_PATCHES + 1
  patches = 3 * _VIT_PATCH**2 * width * _VIT_PATCHES
  block = 12 * width * width * rows + 2 * rows * rows * width
  return _FLOPS * (patches + _VIT_DEPTH * block)

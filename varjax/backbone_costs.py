"""Shapes and costs of the pretrained networks that stage 1 looks through.

The published shapes stand here alone: the networks themselves read them. Each
cost is one sum over the layers of one image, without the layers behind the
maps that a loss uses. No JAX in here. Conventions: docs/flops.md.
"""

from __future__ import annotations

from varjax.tokenizer_costs import Layer

_FLOPS = 2  # a multiply and an add
# EfficientNet-Lite0 (arXiv 1905.11946), by block: channels in and out, side
# of the kernel, stride, expansion.
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
EFFLITE0_WIDTH, EFFLITE0_CLASSES = 1280, 1000
# Widths of the convolutions of VGG16 (arXiv 1409.1556), by resolution.
VGG16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
# ViT-S/16 (arXiv 2104.14294) on 224 x 224 pixels.
VIT_DEPTH, VIT_WIDTH, VIT_HEADS, VIT_PATCHES, VIT_PATCH = 12, 384, 6, 196, 16


def efflite0(side: int) -> Layer:
  """EfficientNet-Lite0 up to its last map; `params` is of all of it."""
  side = -(-side // 2)
  layers = [_conv(3, EFFLITE0_STEM, 3, side)]
  for before, after, kernel, stride, expansion in EFFLITE0:
    hidden = before * expansion
    if expansion > 1:
      layers.append(_conv(before, hidden, 1, side))
    side = -(-side // stride)
    layers.append(_conv(1, hidden, kernel, side))  # each channel by itself
    layers.append(_conv(hidden, after, 1, side))
  unused = [
    _conv(EFFLITE0[-1][1], EFFLITE0_WIDTH, 1, 0),
    _conv(EFFLITE0_WIDTH, EFFLITE0_CLASSES, 1, 0),
  ]
  return _sum([*layers, *unused])


def lpips_vgg16(side: int) -> Layer:
  """VGG16 without its classifier, and LPIPS's weight for each channel."""
  layers, before = [], 3
  for widths in VGG16:
    for after in widths:
      layers.append(_conv(before, after, 3, side))
      before = after
    layers.append(Layer(params=before, flops=0, outputs=0))
    side //= 2
  return _sum(layers)


def vit() -> Layer:
  """DINO's ViT-S/16 up to its last block, without the norm behind it."""
  width, rows = VIT_WIDTH, VIT_PATCHES + 1
  patches = _dense(3 * VIT_PATCH**2, width, VIT_PATCHES)
  tokens = Layer(params=width * (rows + 1), flops=0, outputs=0)
  norm = Layer(params=2 * width, flops=0, outputs=rows * width)
  attention = Layer(
    params=0,
    flops=_FLOPS * 2 * rows * rows * width,
    # The scores and their softmax; the mixed values.
    outputs=2 * VIT_HEADS * rows * rows + rows * width,
  )
  gelu = Layer(params=0, flops=0, outputs=4 * rows * width)
  block = [
    norm, _dense(width, 3 * width, rows), attention,
    _dense(width, width, rows),
    norm, _dense(width, 4 * width, rows), gelu,
    _dense(4 * width, width, rows),
  ]  # fmt: skip
  return _sum([patches, tokens, *block * VIT_DEPTH])


def _conv(inputs: int, outputs: int, kernel: int, side: int) -> Layer:
  """With a bias, which the norm behind it is folded into."""
  weights = kernel * kernel * inputs * outputs
  pixels = side * side
  return Layer(weights + outputs, _FLOPS * weights * pixels, outputs * pixels)


def _dense(inputs: int, outputs: int, rows: int) -> Layer:
  weights = inputs * outputs
  return Layer(weights + outputs, _FLOPS * weights * rows, outputs * rows)


def _sum(layers: list[Layer]) -> Layer:
  return Layer(
    params=sum(layer.params for layer in layers),
    flops=sum(layer.flops for layer in layers),
    outputs=sum(layer.outputs for layer in layers),
  )

"""Exact parameters and FLOPs of the convolutional tokenizer, from its spec.

The network is walked once as a list of layers with their output sizes;
parameters and FLOPs are two sums over that one list. Source: the VQVAE of
VAR (arXiv 2404.02905), official implementation; the quantizers are those of
docs/tokenizers.md. No JAX in here.
Conventions: docs/flops.md.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses

from varjax import errors, tokenizer_rules
from varjax.params import ITEM_BYTES
from varjax.spec import TokenizerSpec

_FLOPS = 2  # a multiply and an add
_KINDS = ('encode', 'decode', 'train', 'features')
_FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Layer:
  """One layer with weights, or the weightless part of an attention.

  Attributes:
    params: weights and biases.
    flops: forward FLOPs for one image (normalisation counts none).
    outputs: values written for one image, in elements.
    joined: values of one image that devices which share its channels sum
      up, in the forward or in the backward pass.
  """

  params: int
  flops: int
  outputs: int
  joined: int = 0


@dataclasses.dataclass(frozen=True)
class TokenizerParameterCounts:
  """Numbers of weights; `total` is the sum of all fields."""

  encoder: int
  decoder: int
  codebook: int
  phi: int
  quant_conv: int
  post_quant_conv: int

  @property
  def quantizer(self) -> int:
    """Codebook and phi convolutions."""
    return self.codebook + self.phi

  @property
  def total(self) -> int:
    """All weights of the tokenizer."""
    convs = self.quant_conv + self.post_quant_conv
    return self.encoder + self.decoder + self.quantizer + convs


def tokenizer_parameter_counts(
  spec: TokenizerSpec,
) -> TokenizerParameterCounts:
  """Exact counts of the tokenizer that `spec` describes."""
  if spec.kind in tokenizer_rules.PIXELS:
    colours = 3 * spec.vocab if spec.kind == 'palette' else 0
    return TokenizerParameterCounts(0, 0, colours, 0, 0, 0)
  before, after = _quant_convs(spec)
  phis = spec.phi_count or len(spec.scales)
  if not _has_phi(spec):
    phis = 0
  phi = _conv(spec.code_dim, spec.code_dim, 3, (1, 1))
  return TokenizerParameterCounts(
    encoder=sum(layer.params for layer in encoder_layers(spec)),
    decoder=sum(layer.params for layer in decoder_layers(spec)),
    codebook=spec.vocab * spec.code_dim if _has_codebook(spec) else 0,
    phi=phis * phi.params,
    quant_conv=before.params,
    post_quant_conv=after.params,
  )


def tokenizer_flops_per_image(spec: TokenizerSpec, kind: str) -> int:
  """FLOPs of the tokenizer for one image.

  Args:
    spec: the tokenizer; the image is its finest grid times `downsample`.
    kind: 'encode' (image to codes), 'decode' (codes to image), 'train' (one
      forward and backward pass of the autoencoder), or 'features' (codes to
      the inputs of a next-scale transformer; 0 for one grid: lookups).

  Returns:
    FLOPs; products of the resizing matrices are included.

  Raises:
    ConfigError: on another kind.
  """
  if kind not in _KINDS:
    raise errors.ConfigError(
      f'tokenizer FLOPs of kind {kind!r}: must be one of {", ".join(_KINDS)}'
    )
  if spec.kind in tokenizer_rules.PIXELS:
    return _palette_flops(spec) if kind == 'encode' else 0
  encoder = sum(layer.flops for layer in encoder_layers(spec))
  decoder = sum(layer.flops for layer in decoder_layers(spec))
  before, after = _quant_convs(spec)
  search, embed, downs = _quantizer_flops(spec)
  if kind == 'encode':
    return encoder + before.flops + search + embed + downs
  if kind == 'decode':
    return embed + after.flops + decoder
  if kind == 'features':
    return _teacher_flops(spec)
  # The nearest code is an argmin: it has no gradient.
  smooth = encoder + decoder + before.flops + after.flops + embed + downs
  return 3 * smooth + search + _penalty_flops(spec)


def enlarging_flops_saved(spec: TokenizerSpec) -> int:
  """FLOPs of `decode` that an accelerator does not execute, of one image.

  Enlarging twice and convolving are one step there: 16 products for 36
  (`enlarge.UpsampleConv`).
  """
  if spec.kind in tokenizer_rules.PIXELS:
    return 0
  saved, size = 0, spec.grids[-1]
  for mult in spec.ch_mult[:0:-1]:
    size, width = (size[0] * 2, size[1] * 2), spec.ch * mult
    saved += _conv(width, width, 3, size).flops * 20 // 36
  return saved


def tokenizer_bytes(spec: TokenizerSpec, kind: str, images: int) -> int:
  """Bytes that a call of one half of the network moves at the least.

  Every layer writes its output once, in the compute type, and one layer reads
  it once: a normalisation that were one pass, and shortcuts that are still on
  the chip. Weights are read once, in float32. The quantizer's grids and its
  scores are small beside it, or never leave the chip, and are not counted.

  Args:
    spec: the tokenizer.
    kind: 'encode' or 'decode'.
    images: of one call.

  Raises:
    ConfigError: on another kind.
  """
  if kind not in ('encode', 'decode'):
    raise errors.ConfigError(
      f'tokenizer bytes of kind {kind!r}: must be encode or decode'
    )
  counts = tokenizer_parameter_counts(spec)
  height, width = _image_size(spec)
  pixels = 3 * height * width
  if kind == 'encode':
    layers, weights = encoder_layers(spec), counts.encoder + counts.quant_conv
    ends = pixels  # Read, one byte each.
  else:
    layers = decoder_layers(spec)
    weights = counts.decoder + counts.post_quant_conv
    ends = _FLOAT32 * pixels  # Written.
  inner = 2 * ITEM_BYTES[spec.compute_dtype] * sum(x.outputs for x in layers)
  return images * (inner + ends) + _FLOAT32 * (weights + counts.quantizer)


def _palette_flops(spec: TokenizerSpec) -> int:
  """The nearest colour of every pixel; channel values cost nothing."""
  if spec.kind == 'pixel':
    return 0
  height, width = spec.grids[-1]
  return height * width * _FLOPS * 3 * spec.vocab


def _quantizer_flops(spec: TokenizerSpec) -> tuple[int, int, int]:
  """Looking codes up, summing them, and making what is looked up next."""
  finest, grids = spec.grids[-1], spec.grids
  positions = sum(h * w for h, w in grids)
  search = 0
  if _has_codebook(spec):
    search = positions * _FLOPS * spec.code_dim * spec.vocab
    search *= spec.codes_per_position
  if spec.kind != 'msvq':
    return search, 0, 0  # additions and roundings count none
  # Each scale but the finest is resized down to read it and up to sum it.
  resize = sum(_resize(g, finest, spec.code_dim) for g in grids[:-1])
  phi = _conv(spec.code_dim, spec.code_dim, 3, finest).flops
  phis = len(grids) * phi if _has_phi(spec) else 0
  return search, resize + phis, resize


def _teacher_flops(spec: TokenizerSpec) -> int:
  """Codes to the inputs of a next-scale transformer; lookups else."""
  if spec.kind != 'msvq':
    return 0
  finest = spec.grids[-1]
  resize = [_resize(g, finest, spec.code_dim) for g in spec.grids[:-1]]
  phi = _conv(spec.code_dim, spec.code_dim, 3, finest).flops
  phis = len(resize) * phi if _has_phi(spec) else 0
  # Up and summed for all scales but the last, then down to the next one.
  return sum(resize) + phis + sum(resize[1:])


def _penalty_flops(spec: TokenizerSpec) -> int:
  """The entropy penalty of a learned codebook: all distances, both ways."""
  if not spec.entropy or not _has_codebook(spec):
    return 0  # that of bits is elementwise
  height, width = spec.grids[-1]
  return 3 * _FLOPS * height * width * spec.code_dim * spec.vocab


def _has_codebook(spec: TokenizerSpec) -> bool:
  return spec.kind in tokenizer_rules.WITH_CODEBOOK


def _has_phi(spec: TokenizerSpec) -> bool:
  return spec.kind == 'msvq' and spec.phi_ratio > 1e-6


def _quant_convs(spec: TokenizerSpec) -> tuple[Layer, Layer]:
  """The convolutions before and after the quantizer."""
  latent, dim, size = (
    spec.latent_channels, spec.code_dim, spec.quant_conv_size,
  )  # fmt: skip
  finest = spec.grids[-1]
  return _conv(latent, dim, size, finest), _conv(dim, latent, size, finest)


def encoder_layers(spec: TokenizerSpec) -> list[Layer]:
  """Layers of image -> features, without the quantiser's convolution."""
  size = _image_size(spec)
  width = spec.ch
  layers = [_conv(3, width, 3, size)]
  last = len(spec.ch_mult) - 1
  for level, mult in enumerate(spec.ch_mult):
    for _ in range(spec.num_res_blocks):
      layers += _res_block(width, spec.ch * mult, size)
      width = spec.ch * mult
      if level == last and spec.attention:
        layers += _attention(width, size)
    if level != last:
      size = (size[0] // 2, size[1] // 2)
      layers.append(_conv(width, width, 3, size))
  layers += _middle(width, size, spec.attention)
  layers += [_norm(width, size), _conv(width, spec.latent_channels, 3, size)]
  return layers


def decoder_layers(spec: TokenizerSpec) -> list[Layer]:
  """Layers of features -> image, without the quantiser's convolution."""
  size = spec.grids[-1]
  width = spec.ch * spec.ch_mult[-1]
  layers = [_conv(spec.latent_channels, width, 3, size)]
  layers += _middle(width, size, spec.attention)
  last = len(spec.ch_mult) - 1
  for level in range(last, -1, -1):
    for _ in range(spec.num_res_blocks + 1):
      layers += _res_block(width, spec.ch * spec.ch_mult[level], size)
      width = spec.ch * spec.ch_mult[level]
      if level == last and spec.attention:
        layers += _attention(width, size)
    if level:
      size = (size[0] * 2, size[1] * 2)
      layers.append(_conv(width, width, 3, size))
  layers += [_norm(width, size), _conv(width, 3, 3, size)]
  return layers


def _image_size(spec: TokenizerSpec) -> tuple[int, int]:
  height, width = spec.grids[-1]
  return height * spec.downsample, width * spec.downsample


def _conv(
  inputs: int, outputs: int, kernel: int, size: tuple[int, int]
) -> Layer:
  """A biased convolution that writes `size`; the bias counts no FLOPs."""
  weights = kernel * kernel * inputs * outputs
  area = size[0] * size[1]
  return Layer(weights + outputs, _FLOPS * weights * area, outputs * area)


def _norm(width: int, size: tuple[int, int]) -> Layer:
  return Layer(2 * width, 0, width * size[0] * size[1])


def _res_block(
  inputs: int, outputs: int, size: tuple[int, int]
) -> Iterator[Layer]:
  area = size[0] * size[1]
  yield _norm(inputs, size)
  # Channels between the two are cut: the gradient of the first one's input
  # is a sum over devices, and so is the second one's output.
  first = _conv(inputs, outputs, 3, size)
  yield dataclasses.replace(first, joined=inputs * area)
  yield _norm(outputs, size)
  second = _conv(outputs, outputs, 3, size)
  yield dataclasses.replace(second, joined=outputs * area)
  if inputs != outputs:
    yield _conv(inputs, outputs, 1, size)


def _attention(width: int, size: tuple[int, int]) -> Iterator[Layer]:
  area = size[0] * size[1]
  yield _norm(width, size)
  yield _conv(width, 3 * width, 1, size)
  # Logits and weighted sum, one head over all positions.
  yield Layer(0, 2 * _FLOPS * area * area * width, area * area)
  yield _conv(width, width, 1, size)


def _middle(
  width: int, size: tuple[int, int], attention: bool
) -> Iterator[Layer]:
  yield from _res_block(width, width, size)
  if attention:
    yield from _attention(width, size)
  yield from _res_block(width, width, size)


def _resize(
  small: tuple[int, int], full: tuple[int, int], channels: int
) -> int:
  """Two matrix products, rows first on the way down and last on the way up."""
  rows = small[0] * full[0] * full[1]
  columns = small[0] * small[1] * full[1]
  return _FLOPS * channels * (rows + columns)

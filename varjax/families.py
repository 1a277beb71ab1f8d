"""Published families as specs of the one transformer, with exact counts.

VAR (arXiv 2404.02905, table 1), LlamaGen (2406.06525, table 1 and the public
configurations), ImageGPT (Chen et al. 2020, section 3.3) and MaskGIT
(2202.04200, section 4.1), RQ-Transformer (2203.01941 and the public
configurations). They differ in switches of `spec.ModelSpec` and in
the order; sizes follow from shapes alone, so nothing here trains. No JAX.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import re

from varjax import errors
from varjax.scale_schedules import scale_schedule
from varjax.spec import ModelSpec, OrderSpec, TokenizerSpec

_IMAGENET_CLASSES = 1000
# What the transformers after GPT-2 have in common.
_GPT = ModelSpec(
  norm='layernorm', l2_norm=False, softmax_scale=1.0, init_std=0.02
)


@dataclasses.dataclass(frozen=True)
class Member:
  """One model of a family.

  Attributes:
    model, order, tokenizer: what it is here.
    published: parameters of the transformer as published, rounded as there;
      0 where the paper names the size but no count.
  """

  model: ModelSpec
  order: OrderSpec
  tokenizer: TokenizerSpec
  published: int = 0


# depth: published count
_VAR = {
  **dict.fromkeys(range(6, 37, 2), 0),
  16: 310_000_000,
  20: 600_000_000,
  24: 1_000_000_000,
  30: 2_000_000_000,
  36: 2_300_000_000,
}
# name: depth, width, heads, published count
_LLAMAGEN = {
  'B': (12, 768, 12, 111_000_000),
  'L': (24, 1024, 16, 343_000_000),
  'XL': (36, 1280, 20, 775_000_000),
  'XXL': (48, 1536, 24, 1_400_000_000),
  '3B': (24, 3200, 32, 3_100_000_000),
}
# name: depth, width, heads, side of the image, published count
_IMAGEGPT = {
  'S': (24, 512, 8, 32, 76_000_000),
  'M': (36, 1024, 8, 32, 455_000_000),
  'L': (48, 1536, 16, 32, 1_362_000_000),
}
# name: depth, depth of the small transformer, width, codes, classes, published
_RQ = {
  '355M': (24, 4, 1024, 2048, 0, 355_000_000),  # FFHQ
  '370M': (24, 4, 1024, 16_384, 0, 370_000_000),  # LSUN church
  '612M': (26, 4, 1280, 16_384, 0, 612_000_000),  # LSUN cat, bedroom
  '480M': (12, 4, 1536, 16_384, _IMAGENET_CLASSES, 480_000_000),
  '821M': (24, 4, 1536, 16_384, _IMAGENET_CLASSES, 821_000_000),
  '1.4B': (42, 6, 1536, 16_384, _IMAGENET_CLASSES, 1_400_000_000),
  '3.8B': (42, 6, 2560, 16_384, _IMAGENET_CLASSES, 3_800_000_000),
}
# The public configuration: 24 layers of 768, one table of 1024 codes, 1000
# classes and a mask, 257 positions, and a dense layer before the tied head.
_MASKGIT = 172_457_193


def names() -> Iterator[str]:
  """Every member: 'var-d16', 'llamagen-3B', 'rq-1.4B', 'maskgit', ..."""
  yield from (f'var-d{depth}' for depth in _VAR)
  yield from (f'llamagen-{size}' for size in _LLAMAGEN)
  yield from (f'imagegpt-{size}' for size in _IMAGEGPT)
  yield from (f'rq-{size}' for size in _RQ)
  yield 'maskgit'


def member(name: str) -> Member:
  """The specs of a member of a family.

  Raises:
    ConfigError: no such member.
  """
  if name not in set(names()):
    raise errors.ConfigError(
      f'family member {name!r}: must be one of {", ".join(names())}'
    )
  family, _, size = name.partition('-')
  if family == 'var':
    return var(int(re.sub('^d', '', size)))
  if family == 'llamagen':
    return llamagen(*_LLAMAGEN[size])
  if family == 'imagegpt':
    return imagegpt(*_IMAGEGPT[size])
  if family == 'rq':
    return rq(*_RQ[size])
  return maskgit()


def var(depth: int) -> Member:
  """VAR of a depth; d36 is the 512-pixel model, with shared AdaLN."""
  large = depth == 36
  tokenizer = TokenizerSpec()
  if large:
    tokenizer = dataclasses.replace(tokenizer, scales=scale_schedule(32, 10))
  model = ModelSpec(
    depth=depth, width=64 * depth, heads=depth, shared_adaln=large
  )
  return Member(model, OrderSpec('scale'), tokenizer, _VAR.get(depth, 0))


def llamagen(depth: int, width: int, heads: int, published: int = 0) -> Member:
  """LlamaGen: next tokens of a 16 x 16 grid by a Llama.

  The class is the start symbol, which has a table row of its own here: one
  width more than in the public code.

  Args:
    depth, width, heads: layers, D, N.
    published: parameters as published, 0 where that is not known.
  """
  # Two thirds of four widths, up to a multiple of 256 (public code).
  hidden = -(-int(8 * width / 3) // 256) * 256
  model = ModelSpec(
    depth=depth,
    width=width,
    heads=heads,
    mlp_ratio=hidden / width,
    num_classes=_IMAGENET_CLASSES,
    norm='rmsnorm',
    mlp='swiglu',
    position='rotary2d',
    bias=False,
    l2_norm=False,
    softmax_scale=1.0,
    init_std=0.02,
    init_head=0.0,
  )
  tokenizer = TokenizerSpec(
    kind='vq',
    ch=128,
    code_dim=8,
    latent_dim=256,
    vocab=16_384,
    scales=(16,),
    quant_conv_size=1,
    znorm=True,
  )
  return Member(model, OrderSpec('raster'), tokenizer, published)


def imagegpt(
  depth: int, width: int, heads: int, side: int, published: int = 0
) -> Member:
  """ImageGPT: next pixels of a palette of 512 colours by a GPT-2.

  Args:
    depth, width, heads: layers, D, N.
    side: of the images, in pixels.
    published: parameters as published, 0 where that is not known.
  """
  model = dataclasses.replace(
    _GPT,
    depth=depth,
    width=width,
    heads=heads,
    num_classes=0,
    label_drop=0.0,
  )
  tokenizer = TokenizerSpec(
    kind='palette', vocab=512, scales=(side,), ch_mult=(1,)
  )
  return Member(model, OrderSpec('raster'), tokenizer, published)


def rq(
  depth: int,
  depth_layers: int,
  width: int,
  vocab: int,
  num_classes: int,
  published: int = 0,
) -> Member:
  """RQ-Transformer on 8 x 8 positions of 4 codes; heads have size 64.

  Keys have no bias here, and class-conditional models have a row for "no
  class".

  Args:
    depth: layers over positions; depth_layers: over the codes of one.
    width: D of both.
    vocab: values of one code.
    num_classes: class labels; 0 is unconditional.
    published: parameters as published, 0 where that is not known.
  """
  model = dataclasses.replace(
    _GPT,
    depth=depth,
    width=width,
    heads=width // 64,
    depth_layers=depth_layers,
    num_classes=num_classes,
    label_drop=0.0,
  )
  tokenizer = TokenizerSpec(
    kind='rq',
    ch=128,
    ch_mult=(1, 1, 2, 2, 4, 4),
    code_dim=256,
    vocab=vocab,
    scales=(8,),
    quant_conv_size=1,
    codes_per_position=4,
  )
  return Member(model, OrderSpec('residual'), tokenizer, published)


def maskgit() -> Member:
  """MaskGIT at 256 pixels; its normalisations are after the branches there.

  The published 227 M are of the transformer and its tokenizer of 55 M, whose
  decoder has one block less a level than ours; of the transformer alone only
  the configuration is public, from which its count follows.
  """
  model = dataclasses.replace(
    _GPT,
    depth=24,
    width=768,
    heads=8,
    num_classes=_IMAGENET_CLASSES,
    label_smoothing=0.1,
  )
  tokenizer = TokenizerSpec(
    kind='vq',
    ch=128,
    code_dim=256,
    vocab=1024,
    scales=(16,),
    attention=False,
    quant_conv_size=1,
  )
  return Member(model, OrderSpec('masked'), tokenizer, _MASKGIT)

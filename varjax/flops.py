"""FLOPs of the transformer per image, and the front door of accounting.

Planned FLOPs, FLOPs counted by a run and FLOPs in its record all come from
here. Every convention is written down in docs/flops.md; in short: a
multiply-add is 2 FLOPs, only matrix products count, a backward pass is
twice a forward pass, attention counts the pairs that the block-causal rule
lets through, AdaLN runs once per image, and recomputation is not work done.
Source: VAR (arXiv 2404.02905) for the shapes. No JAX in here.
"""

from __future__ import annotations

import dataclasses

from varjax import errors
from varjax.params import (
  ParameterCounts,
  Sequence,
  head_outputs,
  hidden_width,
  mlp_products,
  parameter_counts,
  sequence_of,
)
from varjax.spec import ModelSpec, TokenizerSpec
from varjax.tokenizer_costs import (
  TokenizerParameterCounts,
  tokenizer_flops_per_image,
  tokenizer_parameter_counts,
)

__all__ = [
  'Conventions',
  'Flops',
  'ParameterCounts',
  'SamplingFlops',
  'Sequence',
  'TokenizerParameterCounts',
  'conventions',
  'float8_train_flops_per_image',
  'forward_flops_per_image',
  'hardware_train_flops_per_image',
  'parameter_counts',
  'sampling_flops_per_image',
  'sequence_of',
  'tokenizer_flops_per_image',
  'tokenizer_parameter_counts',
  'train_flops_per_image',
]

_BACKWARD = 2  # in forward passes: gradients of the inputs and the weights


@dataclasses.dataclass(frozen=True)
class Flops:
  """FLOPs by part; `total` is the sum of all fields.

  Attributes:
    linear: per-position products of the blocks (qkv, projection, MLP), those
      of a depth transformer included, which has R rows for each position.
    attention: logits and weighted sums, of both.
    adaln: AdaLN projections of the blocks.
    embed: projection of the input features; looking up codes is free.
    head: codebook logits, and the AdaLN in front of them.
  """

  linear: int
  attention: int
  adaln: int
  embed: int
  head: int

  @property
  def body(self) -> int:
    """The blocks."""
    return self.linear + self.attention + self.adaln

  @property
  def total(self) -> int:
    """All of it."""
    return self.body + self.embed + self.head

  def __mul__(self, factor: int) -> Flops:
    values = dataclasses.astuple(self)
    return Flops(*(factor * value for value in values))

  __rmul__ = __mul__


@dataclasses.dataclass(frozen=True)
class SamplingFlops:
  """FLOPs of generating one image.

  Attributes:
    transformer: all steps with a key-value cache.
    features: codes to the inputs of the next step.
    decode: codes to the image.
  """

  transformer: int
  features: int
  decode: int

  @property
  def total(self) -> int:
    """All of it."""
    return self.transformer + self.features + self.decode


@dataclasses.dataclass(frozen=True)
class Conventions:
  """Training FLOPs of one image as different authors would count them.

  Attributes:
    exact: `train_flops_per_image(...).total`, what records hold.
    exact_body: its blocks.
    dense: `6 * 12 d w^2 * L + 12 L^2 w d + 6 L w V`: attention without the
      mask, no AdaLN, no embedding; the convention of the speed tables.
    six_nd_total: 6 * all parameters * positions.
    six_nd_body: 6 * parameters of the blocks (AdaLN included) * positions;
      with N = 73728 d^3 this is the compute that VAR's figures suggest.
    hardware: what the device executes, see
      `hardware_train_flops_per_image`.
  """

  exact: int
  exact_body: int
  dense: int
  six_nd_total: int
  six_nd_body: int
  hardware: int


def forward_flops_per_image(
  model: ModelSpec, codes: TokenizerSpec | Sequence
) -> Flops:
  """Model FLOPs of one teacher-forced forward pass over one image.

  Args:
    model: the transformer.
    codes: the tokenizer (next-scale order), or the sequence of any order.

  Returns:
    FLOPs by part.
  """
  sequence = sequence_of(codes)
  return _forward(model, sequence)


def train_flops_per_image(
  model: ModelSpec, codes: TokenizerSpec | Sequence
) -> Flops:
  """Model FLOPs of one forward and backward pass over one image.

  Neither recomputation nor the optimiser nor the tokenizer is part of it.
  """
  return (1 + _BACKWARD) * forward_flops_per_image(model, codes)


def hardware_train_flops_per_image(
  model: ModelSpec,
  codes: TokenizerSpec | Sequence,
  skips_masked: bool = False,
) -> int:
  """FLOPs that a device executes: recomputation and masked pairs included.

  Args:
    model: the transformer; `remat` decides what is computed twice: with
      'full' the whole block, with 'dots' the products inside attention,
      with 'slim' the first product of the MLP. 'light' repeats no product
      where the attention kernel names what it needs (`models.remat`). A
      loss in parts computes its logits twice.
    codes: the tokenizer, or the sequence of any order.
    skips_masked: the attention kernel skips masked pairs.

  Raises:
    ConfigError: on an unknown `remat`.
  """
  sequence = sequence_of(codes)
  forward = _forward(model, sequence, masked=not skips_masked)
  layers = model.depth
  if sequence.depth_dim:
    layers += model.depth_layers * sequence.targets_per_position
  again = {
    'none': 0,
    'light': 0,
    'dots': forward.attention,
    'slim': layers * sequence.positions * _first_of_mlp(model),
    'full': forward.body,
  }
  if model.remat not in again:
    raise errors.ConfigError(
      f'model.remat={model.remat!r}: must be one of {", ".join(again)}'
    )
  logits = 0
  if model.loss_chunks > 1:
    logits = 2 * sequence.positions * model.width
    logits *= head_outputs(model, sequence)
    # The depth transformer is a part of the head, and computed with it.
    alone = dataclasses.replace(sequence, depth_dim=0)
    logits += forward.total - _forward(model, alone, not skips_masked).total
  return (1 + _BACKWARD) * forward.total + again[model.remat] + logits


def float8_train_flops_per_image(
  model: ModelSpec, codes: TokenizerSpec | Sequence
) -> int:
  """What of `hardware_train_flops_per_image` are products of float8.

  Those with the weights of the blocks, where `model.products` says so; a
  depth transformer keeps the compute type.
  """
  if model.products != 'fp8':
    return 0
  sequence = dataclasses.replace(sequence_of(codes), depth_dim=0)
  linear = _forward(model, sequence).linear
  first = model.depth * sequence.positions * _first_of_mlp(model)
  again = {'slim': first, 'full': linear}.get(model.remat, 0)
  return (1 + _BACKWARD) * linear + again


def sampling_flops_per_image(
  model: ModelSpec, tokenizer: TokenizerSpec, cfg: bool = True
) -> SamplingFlops:
  """Model FLOPs of sampling and decoding one image.

  With a key-value cache each position is computed once and sees exactly
  what it saw in training, so the steps add up to one forward pass.

  Args:
    model: the transformer.
    tokenizer: the tokenizer that decodes.
    cfg: classifier-free guidance; each step runs twice, the embedding of
      the shared inputs once.
  """
  forward = forward_flops_per_image(model, tokenizer)
  passes = 2 if cfg else 1
  transformer = passes * (forward.body + forward.head) + forward.embed
  features = tokenizer_flops_per_image(tokenizer, 'features')
  decode = tokenizer_flops_per_image(tokenizer, 'decode')
  return SamplingFlops(transformer, features, decode)


def conventions(
  model: ModelSpec, codes: TokenizerSpec | Sequence
) -> Conventions:
  """Training FLOPs of one image under each convention of docs/flops.md."""
  sequence = sequence_of(codes)
  counts = parameter_counts(model, sequence)
  train = train_flops_per_image(model, sequence)
  dense = (1 + _BACKWARD) * _forward(model, sequence, masked=True)
  logits = 6 * sequence.positions * model.width
  logits *= head_outputs(model, sequence)
  return Conventions(
    exact=train.total,
    exact_body=train.body,
    dense=dense.linear + dense.attention + logits,
    six_nd_total=6 * counts.total * sequence.positions,
    six_nd_body=6 * counts.body * sequence.positions,
    hardware=hardware_train_flops_per_image(model, sequence),
  )


def _first_of_mlp(model: ModelSpec) -> int:
  """FLOPs of a row in the first product of the MLP."""
  halves = 2 if model.mlp == 'swiglu' else 1
  return 2 * halves * model.width * hidden_width(model)


def _forward(
  model: ModelSpec, sequence: Sequence, masked: bool = False
) -> Flops:
  """One pass; `masked` also counts the pairs that no rule lets through."""
  d = model.width
  pairs = sequence.positions**2 if masked else sequence.visible_pairs
  positions = sequence.positions
  products = 4 * d * d + mlp_products(model)
  modulations, head_modulation = 0, 0
  if model.norm == 'adaln':
    modulations = 1 if model.shared_adaln else model.depth
    head_modulation = 2 * 2 * d * d
  inputs = 0 if sequence.symbols else positions - sequence.start
  logits = head_outputs(model, sequence)
  rows, depth_pairs, sums = 0, 0, 0
  if sequence.depth_dim:
    codes = sequence.targets_per_position
    rows = positions * codes
    depth_pairs = rows * codes if masked else rows * (codes + 1) // 2
    sums = positions * (codes - 1)
  return Flops(
    linear=2 * (model.depth * positions + model.depth_layers * rows) * products,
    attention=4 * (model.depth * pairs + model.depth_layers * depth_pairs) * d,
    adaln=2 * modulations * 6 * d * d,
    embed=2 * (inputs * sequence.input_dim + sums * sequence.depth_dim) * d,
    head=2 * positions * d * logits + head_modulation,
  )

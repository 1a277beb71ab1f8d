"""Exact parameter counts of the transformer, from its spec alone.

Planning and records need the counts before anything is compiled, so they
are formulas over `spec.ModelSpec`, and a test holds them equal to what the
model initialises. Source: VAR (arXiv 2404.02905), official implementation.
No JAX in here. Conventions: docs/flops.md.
"""

from __future__ import annotations

import dataclasses
import itertools

from varjax.spec import ModelSpec, TokenizerSpec


@dataclasses.dataclass(frozen=True)
class Sequence:
  """The numbers of an order's layout that counts and FLOPs depend on.

  Attributes:
    block_sizes: positions T of each step; a position sees its own step and
      all earlier ones.
    start: S, leading positions without an input.
    input_dim: channels C of an input feature.
    vocab: codes V.
    num_positions: rows of the position table.
    num_steps: rows of the step ("level") table.
  """

  block_sizes: tuple[int, ...]
  start: int
  input_dim: int
  vocab: int
  num_positions: int
  num_steps: int

  @property
  def positions(self) -> int:
    """Positions of one image, L."""
    return sum(self.block_sizes)

  @property
  def visible_pairs(self) -> int:
    """(query, key) pairs that the block-causal rule lets through."""
    ends = itertools.accumulate(self.block_sizes)
    return sum(
      size * end for size, end in zip(self.block_sizes, ends, strict=True)
    )


@dataclasses.dataclass(frozen=True)
class ParameterCounts:
  """Numbers of weights; `total` is the sum of all fields.

  Attributes:
    linear: qkv, projection and MLP of all blocks with their biases and the
      per-head attention scale: what every position is multiplied with.
    adaln: AdaLN of the blocks, shared or not: used once per image.
    input_embed: projection of the input features.
    tables: class, start, position and step tables.
    head_adaln: AdaLN in front of the head.
    head: projection to the codebook.
  """

  linear: int
  adaln: int
  input_embed: int
  tables: int
  head_adaln: int
  head: int

  @property
  def body(self) -> int:
    """The blocks, AdaLN included: about 18 d w^2 (12 d w^2 shared)."""
    return self.linear + self.adaln

  @property
  def embed_head(self) -> int:
    """Everything outside the blocks."""
    return self.input_embed + self.tables + self.head_adaln + self.head

  @property
  def total(self) -> int:
    """All weights of the transformer; the tokenizer is not part of it."""
    return self.body + self.embed_head


def sequence_of(codes: TokenizerSpec | Sequence) -> Sequence:
  """The next-scale sequence of a tokenizer; a `Sequence` is passed through.

  For another order, build the `Sequence` of its layout and give it to the
  functions that take `codes`.
  """
  if isinstance(codes, Sequence):
    return codes
  sizes = tuple(height * width for height, width in codes.grids)
  return Sequence(
    block_sizes=sizes,
    start=sizes[0],
    input_dim=codes.code_dim,
    vocab=codes.vocab,
    num_positions=sum(sizes),
    num_steps=len(sizes),
  )


def hidden_width(model: ModelSpec) -> int:
  """Hidden units of the MLP, M."""
  return round(model.width * model.mlp_ratio)


def parameter_counts(
  model: ModelSpec, codes: TokenizerSpec | Sequence
) -> ParameterCounts:
  """Exact counts of the transformer that `model` and `codes` describe.

  Args:
    model: the transformer.
    codes: the tokenizer (next-scale order), or the sequence of any order.

  Returns:
    The counts by part.
  """
  sequence = sequence_of(codes)
  d, m = model.width, hidden_width(model)
  attention = 3 * d * d + 2 * d + (d * d + d)  # no bias on the keys
  mlp = (d * m + m) + (m * d + d)
  head_scales = model.heads if model.l2_norm else 0
  modulation = 6 * d * d + 6 * d
  if model.shared_adaln:
    adaln = modulation + model.depth * 6 * d
  else:
    adaln = model.depth * modulation
  tables = model.num_classes + 1 + sequence.start
  tables += sequence.num_positions + sequence.num_steps
  return ParameterCounts(
    linear=model.depth * (attention + mlp + head_scales),
    adaln=adaln,
    input_embed=sequence.input_dim * d + d,
    tables=tables * d,
    head_adaln=2 * d * d + 2 * d,
    head=d * sequence.vocab + sequence.vocab,
  )

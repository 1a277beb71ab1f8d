"""Exact parameter counts of the transformer, from its spec alone.

Planning and records need the counts before anything is compiled, so they
are formulas over `spec.ModelSpec`, and a test holds them equal to what the
model initialises. Source: VAR (arXiv 2404.02905), official implementation.
No JAX in here. Conventions: docs/flops.md.
"""

from __future__ import annotations

import dataclasses
import itertools

from varjax import errors
from varjax.spec import ModelSpec, RunSpec, TokenizerSpec

# Of one number, by the names that specs give to types.
ITEM_BYTES = {'float32': 4, 'bfloat16': 2, 'int8': 1}


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
    symbols: rows of the embedding tables of code inputs, all tables
      together; 0 where inputs are features.
    num_origins: rows of the table of input positions.
    tokens: rows that predict something; 0 is all of them.
    targets_per_position: codes R that such a row predicts.
    depth_dim: channels C of what these codes read of each other; 0 where
      they are predicted at once, without a depth transformer.
  """

  block_sizes: tuple[int, ...]
  start: int
  input_dim: int
  vocab: int
  num_positions: int
  num_steps: int
  symbols: int = 0
  num_origins: int = 0
  tokens: int = 0
  targets_per_position: int = 1
  depth_dim: int = 0

  @property
  def positions(self) -> int:
    """Rows of one image, L."""
    return sum(self.block_sizes)

  @property
  def predicted(self) -> int:
    """Rows that predict something; losses are means over these."""
    return self.tokens or self.positions

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
    linear: qkv, projection and MLP of all blocks with their biases, the
      per-head attention scale and learned normalisations: what every
      position is multiplied with.
    adaln: AdaLN of the blocks, shared or not: used once per image.
    depth: blocks of the depth transformer, if there is one.
    input_embed: projection of the input features, or table of the codes;
      and of the sums of codes that the depth transformer reads.
    tables: class, start, position, step, origin and depth tables.
    head_adaln: AdaLN, or the plain normalisation, in front of the head.
    head: projection to the codebook.
  """

  linear: int
  adaln: int
  depth: int
  input_embed: int
  tables: int
  head_adaln: int
  head: int

  @property
  def body(self) -> int:
    """The blocks, AdaLN included: about 18 d w^2 (12 d w^2 shared)."""
    return self.linear + self.adaln + self.depth

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


def sub_vocab(vocab: int, factors: int) -> int:
  """Values of each of the `factors` sub-tokens that a code is split into.

  Raises:
    ConfigError: no whole number to this power is the vocabulary.
  """
  base = round(vocab ** (1 / factors))
  if base**factors != vocab:
    raise errors.ConfigError(
      f'model.head_factors={factors}: tokenizer.vocab={vocab} is no whole '
      f'number to the power of {factors}; set it to 1'
    )
  return base


def head_outputs(model: ModelSpec, sequence: Sequence) -> int:
  """Logits of one row."""
  values = sub_vocab(sequence.vocab, model.head_factors)
  return sequence.targets_per_position * model.head_factors * values


def depth_spec(model: ModelSpec) -> ModelSpec:
  """The blocks of the depth transformer, as those of a model.

  The class reaches it through the hidden state alone (RQ-Transformer, arXiv
  2203.01941): where the model has AdaLN it has LayerNorm. It sees R rows at
  a time, for which a flash kernel has nothing to offer. It is a part of the
  head, whose products keep the compute type.
  """
  norm = 'layernorm' if model.norm == 'adaln' else model.norm
  return dataclasses.replace(
    model,
    depth=model.depth_layers,
    norm=norm,
    attention='xla',
    products='compute',
    unroll=1,
  )


def scale_sequence(run: RunSpec) -> Sequence:
  """The sequence of a run in next-scale order, the one known without JAX.

  Raises:
    ConfigError: the run has another order; `orders.sequence_of` knows it.
  """
  if run.order.name != 'scale':
    raise errors.ConfigError(
      f'order.name={run.order.name!r}: only next-scale runs are planned and '
      "counted without JAX; use order.name='scale'"
    )
  return sequence_of(run.tokenizer)


def hidden_width(model: ModelSpec) -> int:
  """Hidden units of the MLP, M."""
  return round(model.width * model.mlp_ratio)


def mlp_products(model: ModelSpec) -> int:
  """Weights of the MLP's products: SwiGLU has two on the way in."""
  products = 3 if model.mlp == 'swiglu' else 2
  return products * model.width * hidden_width(model)


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
  d, bias = model.width, int(model.bias)
  modulation = 6 * d * d + 6 * d
  if model.norm != 'adaln':
    adaln = 0
  elif model.shared_adaln:
    adaln = modulation + model.depth * 6 * d
  else:
    adaln = model.depth * modulation
  tables = model.num_classes + 1 + sequence.start
  tables += sequence.num_steps + sequence.num_origins
  if model.position == 'learned':
    tables += sequence.num_positions
  input_embed = sequence.symbols * d or sequence.input_dim * d + d
  logits, depth = head_outputs(model, sequence), 0
  if sequence.depth_dim:
    # One classifier for all codes of a position.
    logits //= sequence.targets_per_position
    depth = model.depth_layers * _block(depth_spec(model))
    input_embed += sequence.depth_dim * d + d
    tables += sequence.targets_per_position
  head_adaln = 2 * d * d + 2 * d if model.norm == 'adaln' else _norm(model)
  return ParameterCounts(
    linear=model.depth * _block(model),
    adaln=adaln,
    depth=depth,
    input_embed=input_embed,
    tables=tables * d,
    head_adaln=head_adaln,
    head=(d + bias) * logits,
  )


def _block(model: ModelSpec) -> int:
  """Weights of one block without its AdaLN."""
  d, m, bias = model.width, hidden_width(model), int(model.bias)
  attention = 4 * d * d + 3 * d * bias  # q, v, projection; none on the keys
  mlp = mlp_products(model)
  if model.mlp == 'gelu':
    mlp += (m + d) * bias
  else:
    mlp += d * bias  # The two halves of SwiGLU have none.
  head_scales = model.heads if model.l2_norm else 0
  return attention + mlp + head_scales + 2 * _norm(model)


def _norm(model: ModelSpec) -> int:
  """Weights of one normalisation without its AdaLN."""
  d, bias = model.width, int(model.bias)
  return {'adaln': 0, 'layernorm': d + d * bias, 'rmsnorm': d}[model.norm]

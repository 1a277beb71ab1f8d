"""The vocabulary that every part of varjax shares.

Dimension letters, used in every array annotation of the project:

  B  images in a batch            K  scales (steps of a next-scale order)
  H  image height in pixels       P  side of the finest code grid
  W  image width in pixels        C  channels of a feature or embedded code
  L  code positions of one image  V  codes in the codebook
  R  codes per position           D  transformer width
  S  start positions (no input)   N  attention heads, with head size A
  T  positions of one step        M  hidden width of the MLP
  F  numbers of a descriptor      J  classes of a feature network

A `CodeSpec` is all that the rest of the system may know about a tokenizer
without its weights. An `Example` is what an order makes of codes: one
attention rule serves every order, `steps[query] >= steps[key]`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax

PyTree = Any
Codes = jax.Array  # int32 [B, L, R]
Batch = dict[str, jax.Array]  # image | codes, label, mask; leading axis B


@dataclasses.dataclass(frozen=True)
class CodeSpec:
  """What a tokenizer emits: grids in production order, and their alphabet.

  Attributes:
    grids: (height, width) of each scale; one entry for a flat tokenizer.
    vocab: codes in the codebook, V.
    code_dim: channels of an embedded code, C.
    codes_per_position: codes at one position, R (1 but for residual stacks).
  """

  grids: tuple[tuple[int, int], ...]
  vocab: int
  code_dim: int
  codes_per_position: int = 1

  @functools.cached_property
  def block_sizes(self) -> tuple[int, ...]:
    """Positions of each scale, T per step."""
    return tuple(h * w for h, w in self.grids)

  @functools.cached_property
  def offsets(self) -> tuple[int, ...]:
    """First position of each scale, and the total as the last entry."""
    total, offsets = 0, [0]
    for size in self.block_sizes:
      total += size
      offsets.append(total)
    return tuple(offsets)

  @property
  def positions(self) -> int:
    """Code positions of one image, L."""
    return self.offsets[-1]

  @property
  def finest(self) -> tuple[int, int]:
    """(height, width) of the last grid."""
    return self.grids[-1]


@flax.struct.dataclass
class Example:
  """Codes as one order presents them to the transformer.

  The first S positions (`Layout.start`) are start symbols and have no
  input; everything else has one row per position.
  """

  inputs: jax.Array  # [B, L-S, C] features or [B, L-S, R] int codes
  targets: jax.Array  # [B, L, R] int32
  weights: jax.Array  # [B, L] float32, loss weights, mean over L is the loss
  # [B, L] or [1, L] int32, what a row predicts; index of the position table
  positions: jax.Array
  steps: jax.Array  # [B, L] or [1, L] int32, attention: steps[q] >= steps[k]
  # [B, L-S] or [1, L-S] int32, where inputs lie that are not at `positions`
  origins: jax.Array | None = None
  # [B, L, R-1, C], sums of the first 1 ... R-1 code vectors of a position,
  # where its codes are predicted one after the other
  sums: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
  """The static half of an order: what shapes and kernels may depend on.

  Attributes:
    positions: L.
    start: S, leading positions that are start symbols.
    block_sizes: positions produced at each step when the steps are static
      (raster, next-scale); None when they vary by example.
    input_kind: 'features' (float vectors) or 'codes' (integers).
    input_dim: C for features, R for codes.
    targets_per_position: R.
    vocab: V.
    num_positions: rows of the position table.
    num_steps: rows of the step ("level") table; 0 when the order has none.
    symbols: of a code input, where there are more than V (a mask symbol,
      an alphabet per channel); 0 is V.
    num_origins: rows of the table of input positions; 0 when an input lies
      where its row predicts, or always one place before it.
    tokens: rows that predict something; 0 is all L.
    traced: whether steps of equal size may be one traced loop; an order
      whose shapes depend on the step number cannot.
    grids: (height, width) of the grids whose cells the positions are, for
      rotary positions; () where there are none.
    per_cell: consecutive positions of one cell.
    depth_dim: C of the sums of code vectors that the codes of a position
      read of each other; 0 where a row predicts its R codes at once.
  """

  positions: int
  start: int
  block_sizes: tuple[int, ...] | None
  input_kind: str
  input_dim: int
  targets_per_position: int
  vocab: int
  num_positions: int
  num_steps: int
  symbols: int = 0
  num_origins: int = 0
  tokens: int = 0
  traced: bool = False
  grids: tuple[tuple[int, int], ...] = ()
  per_cell: int = 1
  depth_dim: int = 0

  @property
  def rounds(self) -> int:
    """Draws that follow each other at one position."""
    return self.targets_per_position if self.depth_dim else 1

  @property
  def input_symbols(self) -> int:
    """Alphabet of a code input."""
    return self.symbols or self.vocab

  @property
  def predicted(self) -> int:
    """Positions that are predicted, over which losses are means."""
    return self.tokens or self.positions


@flax.struct.dataclass
class LossOutput:
  """What a task's loss_fn returns beside the scalar loss."""

  metrics: dict[str, jax.Array]  # scalars, already averaged over the batch
  state: PyTree  # the task's non-gradient state after this batch


@flax.struct.dataclass
class EvalOutput:
  """What a task's eval_fn returns for one batch.

  Attributes:
    per_image: arrays [B] or [B, K]; averaged over valid images outside.
    totals: arrays already summed over the valid images of the batch.
  """

  per_image: dict[str, jax.Array]
  totals: dict[str, jax.Array]

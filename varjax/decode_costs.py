"""What generating one image costs under any order, with and without a cache.

Attention pairs, rows through the network, FLOPs and sequential steps, from
the block sizes alone. VAR (arXiv 2404.02905, section 3.2 and appendix D)
states O(n^4) for next-scale against O(n^6) for raster order on an n x n grid;
docs/flops.md shows which of the two comes from the cache. No JAX in here.
"""

from __future__ import annotations

import dataclasses
import itertools

from varjax import flops
from varjax.params import Sequence
from varjax.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class DecodeCosts:
  """Of one image, without guidance.

  Attributes:
    steps: forward passes that must follow each other.
    rows: positions that pass through the blocks, over all steps.
    pairs: (query, key) pairs of one head of one layer.
    flops: of the transformer, all steps.
    depth_steps: passes of the depth transformer, of one code each, over all
      steps; 0 where there is none.
  """

  steps: int
  rows: int
  pairs: int
  flops: int
  depth_steps: int = 0


def decode_costs(
  model: ModelSpec, sequence: Sequence, *, cached: bool, turns: int = 0
) -> DecodeCosts:
  """Counts a generation.

  Args:
    model: the transformer.
    sequence: of the order; its blocks are the steps.
    cached: earlier keys and values are kept; otherwise every step computes
      all rows so far again.
    turns: passes over the whole sequence, for an order that reads all of it
      in every step; 0 for the others.

  Returns:
    The counts; a cached generation adds up to one teacher-forced pass.
  """
  whole = flops.forward_flops_per_image(model, sequence)
  depth_steps = 0
  if sequence.depth_dim:
    depth_steps = sequence.predicted * sequence.targets_per_position
  if turns:
    rows = sequence.positions
    return DecodeCosts(
      steps=turns,
      rows=turns * rows,
      pairs=turns * sequence.visible_pairs,
      flops=turns * (whole.linear + whole.attention + whole.embed + whole.head)
      + whole.adaln,
    )
  sizes = sequence.block_sizes
  if cached:
    return DecodeCosts(
      len(sizes),
      sequence.positions,
      sequence.visible_pairs,
      whole.total,
      depth_steps,
    )
  rows = pairs = total = 0
  ends = list(itertools.accumulate(sizes))
  seen = 0
  for size, end in zip(sizes, ends, strict=True):
    seen += size * end  # Pairs of the prefix that ends here.
    rows += end
    pairs += seen
  # Only the newest rows are classified and embedded, and only those have a
  # depth transformer, which keeps its own keys and values.
  once = dataclasses.replace(sequence, depth_dim=0)
  blocks = flops.forward_flops_per_image(model, once)
  per_row = blocks.linear // sequence.positions
  per_pair = blocks.attention // sequence.visible_pairs
  total = rows * per_row + pairs * per_pair
  total += whole.total - blocks.linear - blocks.attention
  return DecodeCosts(len(sizes), rows, pairs, total, depth_steps)


def scale_sides(side: int) -> tuple[int, ...]:
  """The geometric schedule 1, 2, 4, ... of an n x n grid (appendix D)."""
  sides = [1]
  while sides[-1] * 2 < side:
    sides.append(sides[-1] * 2)
  return (*sides, side) if side > 1 else (1,)


def grid_sequence(side: int, scales: bool, vocab: int = 4096) -> Sequence:
  """Raster order or geometric scales of an n x n grid, for the cost model."""
  if not scales:
    tokens = side * side
    return Sequence((1,) * tokens, 1, 1, vocab, tokens, 0, symbols=vocab)
  sizes = tuple(n * n for n in scale_sides(side))
  return Sequence(sizes, 1, 32, vocab, sum(sizes), len(sizes))

"""How static blocks and tiles meet: which tiles a kernel visits. No JAX.

Blocks follow each other and a query sees up to the end of its own block, so
that two vectors are the whole rule: `limits`, the number of keys that each
query sees, and `firsts`, the first query that sees each key. Neither ever
decreases. Two choices of tiles follow, each the one of least work for its
tile size:

- Query tiles are laid from the end. A tile costs what its last query sees;
  the widest tiles that end at L, L - size, ... then straddle a boundary only
  where earlier, cheaper queries are. VAR's last scale, 256 of 680 positions,
  is exactly two tiles of 128, which tiles laid from the start would miss.
- Key tiles of the backward pass are laid from the start, the mirror image:
  a tile costs what its first key is seen by. Its query tiles begin at the
  first query that sees it, wherever that is.
"""

from __future__ import annotations

import dataclasses

import numpy as np

Blocks = tuple[int, ...]
SMALLEST = 16  # The tensor cores' products are of 16 rows and more.


@dataclasses.dataclass(frozen=True)
class Tile:
  """Shape and launch of one kernel.

  Attributes:
    queries, keys: positions of a tile, powers of two.
    warps: of 32 threads each, that share a tile.
    stages: of the pipeline that loads tiles ahead.
  """

  queries: int
  keys: int
  warps: int = 4
  stages: int = 3


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tiles of the three kernels."""

  forward: Tile
  dq: Tile
  dkv: Tile


def choose(head_size: int, item_bytes: int) -> Tiles:
  """Tiles for a head size and a width of number.

  Two bytes: the largest accumulators that the compiler keeps in registers
  (see the Attention section of docs/performance.md). Wider heads and float32,
  which is for comparisons, get tiles that fit in shared memory.
  """
  if item_bytes > 2:
    return Tiles(Tile(32, 32, stages=1), Tile(32, 32, stages=1),
                 Tile(32, 32, stages=1))  # fmt: skip
  if head_size <= 64:
    return Tiles(Tile(128, 64), Tile(128, 32), Tile(64, 64))
  return Tiles(Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 8, 2))


def fit(tile: Tile, queries: int, keys: int) -> Tile:
  """The tile, no larger than whole lengths rounded up to a power of two."""
  return dataclasses.replace(
    tile,
    queries=min(tile.queries, _power_of_two(queries)),
    keys=min(tile.keys, _power_of_two(keys)),
  )


def limits(blocks: Blocks | None, queries: int, keys: int) -> np.ndarray:
  """int32 [queries], how many keys each query sees: all without blocks."""
  if blocks is None:
    return np.full(queries, keys, np.int32)
  return np.repeat(np.cumsum(blocks), blocks).astype(np.int32)


def firsts(blocks: Blocks | None, keys: int) -> np.ndarray:
  """int32 [keys], the first query that sees each key."""
  if blocks is None:
    return np.zeros(keys, np.int32)
  return np.repeat(np.cumsum(blocks) - blocks, blocks).astype(np.int32)


def visited_by_queries(
  blocks: Blocks | None, queries: int, keys: int, tile: Tile
) -> int:
  """Tiles of the forward pass, and of the gradient of the queries."""
  tile = fit(tile, queries, keys)
  seen = limits(blocks, queries, keys)
  lasts = np.arange(queries, 0, -tile.queries) - 1
  return int((-(-seen[lasts] // tile.keys)).sum())


def visited_by_keys(
  blocks: Blocks | None, queries: int, keys: int, tile: Tile
) -> int:
  """Tiles of the gradients of keys and values."""
  tile = fit(tile, queries, keys)
  first = firsts(blocks, keys)[:: tile.keys]
  return int((-(-(queries - first) // tile.queries)).sum())


def visible_pairs(blocks: Blocks | None, queries: int, keys: int) -> int:
  """Pairs of a query and a key that it sees."""
  return int(limits(blocks, queries, keys).sum(dtype=np.int64))


def _power_of_two(length: int) -> int:
  return max(SMALLEST, 1 << (length - 1).bit_length())

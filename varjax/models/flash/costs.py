"""What the flash kernels compute and move, counted. No JAX.

FLOPs are of the products alone, two per multiply-add: two products forwards
(logits, weighted sum), three for the gradient of the queries (logits, slopes,
sum) and four for those of keys and values. Bytes are those of memory if every
kernel reads its inputs once; keys that programs of one head share come from
the device's cache after that.
"""

from __future__ import annotations

import dataclasses

from varjax.models.flash import tiles as tiling

_LOG_BYTES = 4  # One float32 number a row.
_PRODUCTS = {'forward': 2, 'dq': 3, 'dkv': 4}


@dataclasses.dataclass(frozen=True)
class Costs:
  """Of one call.

  Attributes:
    visited: tiles by kernel, of one head of one image.
    flops: executed, masked pairs of visited tiles and padding included.
    flops_visible: by the usual convention, of visible pairs: the backward
      pass is twice the forward one, nothing is computed again.
    bytes: read and written.
  """

  visited: dict[str, int]
  flops: int
  flops_visible: int
  bytes: int


def costs(
  blocks: tiling.Blocks | None,
  shape: tuple[int, int, int, int],
  item_bytes: int,
  *,
  backward: bool,
  keys: int | None = None,
  tiles: tiling.Tiles | None = None,
) -> Costs:
  """Counts one call on queries of `shape` [B, L, N, A].

  Args:
    blocks: the rule, None for none.
    shape: of the queries.
    item_bytes: of a number.
    backward: whether the gradients are computed too.
    keys: M, where it is not L.
    tiles: those that are chosen by default.
  """
  batch, length, heads, head_size = shape
  keys = length if keys is None else keys
  chosen = tiles or tiling.choose(head_size, item_bytes)
  used = {'forward': chosen.forward}
  if backward:
    used |= {'dq': chosen.dq, 'dkv': chosen.dkv}
  used = {k: tiling.fit(tile, length, keys) for k, tile in used.items()}
  visited, pairs = {}, 0
  for kernel, tile in used.items():
    count = (
      tiling.visited_by_keys if kernel == 'dkv' else tiling.visited_by_queries
    )
    visited[kernel] = count(blocks, length, keys, tile)
    pairs += visited[kernel] * tile.queries * tile.keys * _PRODUCTS[kernel]
  visible = tiling.visible_pairs(blocks, length, keys)
  all_heads = batch * heads
  # Rows of A numbers that each kernel reads and writes: q, k, v and out;
  # q, k, v, out, its gradient and dq; q, k, v, the gradient, dk and dv.
  row_items = 2 * (length + keys)
  numbers = length
  if backward:
    row_items += (4 * length + 2 * keys) + (2 * length + 4 * keys)
    numbers += 2 * length + 2 * length  # Logarithm and delta, twice.
  return Costs(
    visited=visited,
    flops=2 * head_size * pairs * all_heads,
    flops_visible=4 * head_size * visible * all_heads * (3 if backward else 1),
    bytes=all_heads * (row_items * head_size * item_bytes
                       + numbers * _LOG_BYTES),
  )  # fmt: skip

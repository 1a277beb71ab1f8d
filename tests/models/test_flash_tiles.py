"""Which tiles the flash kernels visit, against the square that they skip."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from varjax.models.flash import costs, tiles

AT_256 = tuple(n * n for n in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
AT_512 = tuple(n * n for n in (1, 2, 3, 4, 6, 9, 13, 18, 24, 32))
BLOCKS = st.lists(st.integers(1, 40), min_size=1, max_size=8).map(tuple)
SIDES = st.sampled_from([16, 32, 64])


def _mask(blocks):
  steps = np.repeat(np.arange(len(blocks)), blocks)
  return steps[:, None] >= steps[None]


@given(BLOCKS)
def test_two_vectors_are_the_whole_rule(blocks):
  mask, length = _mask(blocks), sum(blocks)
  at = np.arange(length)
  limits = tiles.limits(blocks, length, length)
  firsts = tiles.firsts(blocks, length)
  np.testing.assert_array_equal(at[None] < limits[:, None], mask)
  np.testing.assert_array_equal(at[:, None] >= firsts[None], mask)
  assert tiles.visible_pairs(blocks, length, length) == mask.sum()


@given(BLOCKS, SIDES, SIDES)
def test_counts_are_of_the_tiles_that_hold_a_visible_pair(blocks, rows, cols):
  mask, length = _mask(blocks), sum(blocks)
  tile = tiles.fit(tiles.Tile(rows, cols), length, length)
  by_queries = 0
  for end in range(length, 0, -tile.queries):
    band = mask[max(0, end - tile.queries) : end]
    by_queries += sum(
      band[:, at : at + tile.keys].any() for at in range(0, length, tile.keys)
    )
  assert by_queries == tiles.visited_by_queries(blocks, length, length, tile)
  by_keys = 0
  for begin in range(0, length, tile.keys):
    band = mask[:, begin : begin + tile.keys]
    first = int(band.any(axis=1).argmax())
    by_keys += len(range(first, length, tile.queries))
  assert by_keys == tiles.visited_by_keys(blocks, length, length, tile)


@given(BLOCKS, SIDES, SIDES)
def test_tiles_from_the_end_are_the_least_work(blocks, rows, cols):
  """No other way to cut queries into tiles of this size visits fewer."""
  length = sum(blocks)
  tile = tiles.fit(tiles.Tile(rows, cols), length, length)
  limits = tiles.limits(blocks, length, length)
  best = [0]
  for end in range(1, length + 1):
    begin = max(0, end - tile.queries)
    best.append(min(best[begin:end]) + -(-int(limits[end - 1]) // tile.keys))
  assert best[-1] == tiles.visited_by_queries(blocks, length, length, tile)


@pytest.mark.parametrize(
  ('blocks', 'forward', 'dq', 'dkv'),
  [(AT_256, 41, 82, 77), (AT_512, 412, 823, 806)],
)
def test_official_schedules(blocks, forward, dq, dkv):
  chosen, length = tiles.choose(64, 2), sum(blocks)
  assert (
    tiles.visited_by_queries(blocks, length, length, chosen.forward),
    tiles.visited_by_queries(blocks, length, length, chosen.dq),
    tiles.visited_by_keys(blocks, length, length, chosen.dkv),
  ) == (forward, dq, dkv)


def test_share_of_the_square_at_256():
  """62 % of the pairs are visible; tiles of 128 x 64 compute 73 %."""
  tile, length = tiles.choose(64, 2).forward, sum(AT_256)
  visible = tiles.visible_pairs(AT_256, length, length) / length**2
  computed = (
    tiles.visited_by_queries(AT_256, length, length, tile)
    * tile.queries * tile.keys / length**2
  )  # fmt: skip
  assert visible == pytest.approx(0.6194, abs=1e-4)
  assert computed == pytest.approx(0.7264, abs=1e-4)


@pytest.mark.parametrize(('length', 'side'), [(1, 16), (17, 32), (680, 128)])
def test_tiles_are_no_larger_than_they_need_be(length, side):
  assert tiles.fit(tiles.Tile(128, 128), length, length).queries == side


@pytest.mark.parametrize('head_size', [16, 32, 64, 128])
@pytest.mark.parametrize('item_bytes', [2, 4])
def test_all_sides_are_powers_of_two(head_size, item_bytes):
  chosen = tiles.choose(head_size, item_bytes)
  for tile in (chosen.forward, chosen.dq, chosen.dkv):
    for side in (tile.queries, tile.keys):
      assert side >= tiles.SMALLEST
      assert side & (side - 1) == 0


def test_without_blocks_all_keys_are_seen():
  tile = tiles.Tile(16, 16)
  assert tiles.visited_by_queries(None, 3, 50, tile) == 4
  assert tiles.visited_by_keys(None, 3, 50, tile) == 4
  assert tiles.visible_pairs(None, 3, 50) == 150


def test_costs_by_hand():
  tile = tiles.Tile(16, 16)
  counted = costs.costs(
    (16, 32), (2, 48, 3, 16), 2, backward=True,
    tiles=tiles.Tiles(tile, tile, tile),
  )  # fmt: skip
  # One tile of the first block and three for each of two of the second.
  assert counted.visited == {'forward': 7, 'dq': 7, 'dkv': 7}
  assert counted.flops == 6 * 7 * 9 * 2 * 16 * 16 * 16
  assert counted.flops_visible == 6 * 3 * 4 * 16 * (16 * 16 + 32 * 48)
  # 16 tensors read or written; the logarithm 3 times, delta twice.
  assert counted.bytes == 6 * 48 * (16 * 16 * 2 + 5 * 4)
  forward = costs.costs((16, 32), (2, 48, 3, 16), 2, backward=False)
  assert forward.flops_visible * 3 == counted.flops_visible
  assert forward.bytes == 6 * 48 * (4 * 16 * 2 + 4)

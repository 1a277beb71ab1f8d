"""Costs of a generation against brute counts of what attends to what."""

import math

import numpy as np
import pytest

from varjax import decode_costs, flops
from varjax.spec import ModelSpec

MODEL = ModelSpec(depth=2, width=8, heads=2, num_classes=3)


def brute(sizes, cached):
  """(rows, pairs) counted row by row from the step rule."""
  steps = np.repeat(np.arange(len(sizes)), sizes)
  rows = pairs = 0
  for step in range(len(sizes)):
    for query in np.flatnonzero(steps <= step):
      if cached and steps[query] != step:
        continue
      rows += 1
      pairs += int((steps[steps <= step] <= steps[query]).sum())
  return rows, pairs


@pytest.mark.parametrize('cached', [True, False])
@pytest.mark.parametrize('scales', [True, False])
@pytest.mark.parametrize('side', [1, 2, 5, 8])
def test_counts_are_those_of_the_step_rule(side, scales, cached):
  sequence = decode_costs.grid_sequence(side, scales)
  found = decode_costs.decode_costs(MODEL, sequence, cached=cached)
  assert (found.rows, found.pairs) == brute(sequence.block_sizes, cached)
  assert found.steps == len(sequence.block_sizes)
  if cached:
    whole = flops.forward_flops_per_image(MODEL, sequence)
    assert found.flops == whole.total


def test_whole_passes_are_counted_as_often_as_they_are_made():
  sequence = decode_costs.grid_sequence(4, scales=False)
  one = decode_costs.decode_costs(MODEL, sequence, cached=False, turns=1)
  eight = decode_costs.decode_costs(MODEL, sequence, cached=False, turns=8)
  assert eight.pairs == 8 * one.pairs
  assert eight.rows == 8 * one.rows
  assert eight.steps == 8


def test_the_cache_and_not_the_scales_takes_n6_to_n4():
  def slope(scales, cached):
    pairs = [
      decode_costs.decode_costs(
        MODEL, decode_costs.grid_sequence(n, scales), cached=cached
      ).pairs
      for n in (32, 64)
    ]
    return math.log2(pairs[1] / pairs[0])

  assert slope(scales=False, cached=False) == pytest.approx(6, abs=0.01)
  assert slope(scales=False, cached=True) == pytest.approx(4, abs=0.01)
  assert slope(scales=True, cached=True) == pytest.approx(4, abs=0.05)
  assert slope(scales=True, cached=False) == pytest.approx(4, abs=0.05)

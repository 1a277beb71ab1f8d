"""Schedules of scales: published, growing, complete, and refused."""

import itertools

import hypothesis
from hypothesis import strategies as st
import pytest

from varjax import scale_schedules, tokenizer_rules
from varjax.errors import ConfigError
from varjax.spec import TokenizerSpec


def test_the_published_schedules_are_the_ones_of_ten():
  assert scale_schedules.scale_schedule(16, 10) == TokenizerSpec().scales
  assert scale_schedules.scale_schedule(32, 10)[5] == 9
  # The rule itself finds the one of 16.
  assert tuple(scale_schedules._growing(1, 16, 10)) == TokenizerSpec().scales


@pytest.mark.parametrize(
  ('side', 'count', 'scales'),
  [
    (8, 4, (1, 2, 4, 8)),
    (16, 5, (1, 2, 4, 8, 16)),
    (8, 8, (1, 2, 3, 4, 5, 6, 7, 8)),
    (3, 4, (1, (1, 2), 2, 3)),
    (3, 5, (1, (1, 2), 2, (2, 3), 3)),
    (8, 1, (8,)),
  ],
)
def test_schedules_that_are_known(side, count, scales):
  assert scale_schedules.scale_schedule(side, count) == scales


@hypothesis.given(st.integers(1, 64), st.data())
@hypothesis.settings(deadline=None, max_examples=50)
def test_scales_grow_from_one_cell_to_the_whole_grid(side, data):
  count = data.draw(st.integers(1, 2 * side - 1))
  scales = scale_schedules.scale_schedule(side, count)
  spec = TokenizerSpec(scales=scales)
  tokenizer_rules.check(spec)
  grids = spec.grids
  assert len(grids) == count
  assert grids[-1] == (side, side)
  assert count == 1 or grids[0] == (1, 1)
  for (height, width), (taller, wider) in itertools.pairwise(grids):
    assert height <= taller
    assert width <= wider
    assert height * width < taller * wider


@pytest.mark.parametrize(('side', 'count'), [(8, 16), (8, 0), (0, 1)])
def test_impossible_numbers_of_scales_are_refused(side, count):
  with pytest.raises(ConfigError, match=f'scales={count}: a grid of side'):
    scale_schedules.scale_schedule(side, count)

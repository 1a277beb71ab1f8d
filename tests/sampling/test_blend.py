"""Feathered edges, and masks from pixels to the code grid."""

import numpy as np
import pytest

from varjax import errors
from varjax.sampling import blend, edit


def _square():
  region = np.zeros((12, 12), bool)
  region[4:8, 4:8] = True
  return region


def test_feather_falls_linearly_outside_of_the_region():
  weight = blend.feather(_square(), 3)
  np.testing.assert_array_equal(weight[_square()], 1)
  np.testing.assert_allclose(weight[5, :4], [0, 0.25, 0.5, 0.75])
  np.testing.assert_allclose(weight[8:, 5], [0.75, 0.5, 0.25, 0])
  np.testing.assert_allclose(weight[3, 3], 1 - np.sqrt(2) / 4)


def test_no_pixels_is_a_hard_edge():
  np.testing.assert_array_equal(blend.feather(_square(), 0), _square())
  nothing = np.zeros((4, 4), bool)
  assert not blend.feather(nothing, 5).any()
  assert blend.feather(~nothing, 5).all()
  with pytest.raises(errors.ConfigError, match='blend'):
    blend.feather(nothing, -1)


def test_composite_keeps_the_far_pixels_exactly():
  rng = np.random.default_rng(0)
  new, old = rng.uniform(size=(2, 12, 12, 3)).astype(np.float32)
  result = blend.composite(new, old, _square(), 2)
  np.testing.assert_array_equal(result[0], old[0])
  np.testing.assert_array_equal(result[5:7, 5:7], new[5:7, 5:7])
  edge = result[3, 5]
  np.testing.assert_allclose(edge, 2 / 3 * new[3, 5] + old[3, 5] / 3, rtol=1e-5)


def test_a_cell_is_kept_only_as_a_whole():
  keep = ~_square()
  np.testing.assert_array_equal(
    edit.pixel_mask(keep, (3, 3)), [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
  )
  keep[0, 11] = False
  assert edit.pixel_mask(keep, (3, 3))[0, 2] == 0
  # A mask along the cells is the same as the box.
  box = edit.box_mask(3, (1 / 3, 1 / 3, 2 / 3, 2 / 3), keep='outside')
  np.testing.assert_array_equal(edit.pixel_mask(~_square(), (3, 3)), box)
  with pytest.raises(errors.ConfigError, match='finest grid'):
    edit.pixel_mask(keep, (5, 3))


def test_whole_scales_are_kept():
  grids = [(1, 1), (2, 2), (3, 3)]
  codes = np.zeros((2, 14, 1), np.int32)
  for count, given in ((0, 0), (1, 1), (2, 5), (3, 14)):
    keep = np.asarray(edit.known_scales(codes, count, grids).keep)
    np.testing.assert_array_equal(keep, np.arange(14) < given)
  with pytest.raises(errors.ConfigError, match=r'keep_scales=4.*0\.\.3'):
    edit.known_scales(codes, 4, grids)

"""Picture sheets: sizes, order and pixel values."""

import numpy as np
import PIL.Image
import pytest

from varjax.evals import sheets


def _read(path):
  return np.asarray(PIL.Image.open(path))


def test_grid_places_images_row_by_row(tmp_path):
  values = np.linspace(0, 1, 5)
  images = np.broadcast_to(values[:, None, None, None], (5, 48, 48, 3))
  path = tmp_path / 'new' / 'grid.png'
  sheets.image_grid(images, path, columns=3)
  sheet = _read(path)
  side, gap = 96, 2
  assert sheet.shape == (2 * side + gap, 3 * side + 2 * gap, 3)
  for index, value in enumerate(values):
    top = index // 3 * (side + gap) + side // 2
    left = index % 3 * (side + gap) + side // 2
    assert sheet[top, left, 0] == round(value * 255)
  assert (sheet[side : side + gap] == 255).all()
  assert (sheet[-side // 2, -side // 2] == 255).all()  # no sixth image


def test_reconstruction_sheet_rows(tmp_path):
  images = np.full((2, 200, 100, 3), 0.2)
  partial = np.stack([np.full_like(images, v) for v in (0.4, 0.6, 1.7)])
  sheets.reconstruction_sheet(images, partial, tmp_path / 'sheet.png')
  sheet = _read(tmp_path / 'sheet.png')
  assert sheet.shape == (4 * 200 + 3 * 2, 2 * 100 + 2, 3)
  rows = sheet[[100 + k * 202 for k in range(4)], 50, 0]
  np.testing.assert_array_equal(rows, [51, 255, 102, 153])


def test_a_wrong_shape_is_refused(tmp_path):
  with pytest.raises(ValueError, match='images must be'):
    sheets.image_grid(np.zeros((3, 4, 4)), tmp_path / 'grid.png')
  assert not (tmp_path / 'grid.png').exists()

"""Resizing against PyTorch's outputs and against its definition."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from varjax.tokenizers import resize


def test_parity_with_torch(parity_dir):
  arrays = np.load(parity_dir / 'interp.npz')
  names = [k[3:] for k in arrays.files if k.startswith('in/')]
  assert names
  for name in names:
    kind, _, side = name.split('_')
    x = np.moveaxis(arrays[f'in/{name}'], 1, -1)
    expected = np.moveaxis(arrays[f'out/{name}'], 1, -1)
    result = resize.resize(x, (int(side), int(side)), kind)
    np.testing.assert_allclose(result, expected, atol=1e-6, err_msg=name)


@hypothesis.given(st.integers(1, 40), st.integers(1, 40))
@hypothesis.settings(deadline=None, max_examples=60)
def test_every_row_keeps_a_constant(n_in, n_out):
  for matrix in resize.MATRICES.values():
    np.testing.assert_allclose(matrix(n_in, n_out).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize('kind', sorted(resize.MATRICES))
def test_equal_size_is_the_identity(kind):
  np.testing.assert_array_equal(resize.MATRICES[kind](7, 7), np.eye(7))


def test_area_windows_overlap():
  matrix = resize.area_matrix(5, 3)
  expected = [[1 / 2, 1 / 2, 0, 0, 0], [0, 1 / 3, 1 / 3, 1 / 3, 0],
              [0, 0, 0, 1 / 2, 1 / 2]]  # fmt: skip
  np.testing.assert_allclose(matrix, expected, rtol=1e-6)


def test_bicubic_taps_are_clamped_to_the_edge():
  # Source position -0.25: taps -2, -1, 0, 1, three of them at cell 0.
  taps = resize.bicubic_matrix(4, 8)[0]
  a, t = -0.75, 0.75
  last = a * ((2 - t) ** 3 - 5 * (2 - t) ** 2 + 8 * (2 - t) - 4)
  np.testing.assert_allclose(taps, [1 - last, last, 0, 0], atol=1e-6)


def test_bilinear_reads_two_taps_when_shrinking():
  np.testing.assert_allclose(
    resize.bilinear_matrix(8, 2), [[0, .5, .5, 0, 0, 0, 0, 0],
                                   [0, 0, 0, 0, 0, .5, .5, 0]]
  )  # fmt: skip


def test_sides_are_independent():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 6, 5, 3)).astype(np.float32)
  result = resize.resize(x, (4, 9), 'bicubic')
  expected = np.einsum(
    'oh,pw,bhwc->bopc',
    resize.bicubic_matrix(6, 4), resize.bicubic_matrix(5, 9), x,
  )  # fmt: skip
  np.testing.assert_allclose(result, expected, atol=1e-5)

"""Scores of reconstructions, by pair and as a set, and of codes in use."""

import numpy as np
from picture_sets import all_of
import pytest

from varjax.scoring import reconstructions


def test_reconstructions_are_compared_by_pair_and_as_a_set(
  extract, real, tmp_path
):
  def coarse(batch):
    return (batch // 64) * 64 + 32

  perfect = reconstructions.evaluate(
    lambda batch: batch, real, extract, cache=str(tmp_path)
  )
  assert perfect.values['ssim'] == pytest.approx(1, abs=1e-5)
  assert perfect.values['pd_tiny'] == pytest.approx(0, abs=1e-9)
  assert abs(perfect.values['rfd_tiny']) < 1e-6
  found = reconstructions.evaluate(coarse, real, extract, cache=str(tmp_path))
  error = np.mean((all_of(real) / 127.5 - coarse(all_of(real)) / 127.5) ** 2,
                  (1, 2, 3))  # fmt: skip
  wanted = 10 * np.log10(4 / error)
  np.testing.assert_allclose(found.values['psnr_db'], wanted.mean(), rtol=1e-5)
  np.testing.assert_allclose(
    found.errors['psnr_db'], wanted.std(ddof=1) / np.sqrt(40), rtol=1e-4
  )
  assert 'codes_used' not in found.values
  assert found.values['rfd_tiny'] > 0
  assert found.values['pd_tiny'] > 0
  assert found.values['ssim'] < 1


def test_codes_in_use_are_those_of_the_images_alone(extract, real):
  """Of 4 codes, the first scale uses one, the second three; no padding."""

  def count(batch, images):
    first = batch[:images, 0, 0, 0] % 3  # 0, 1 or 2
    return np.stack(
      [np.eye(4)[np.full(images, 3)].sum(0), np.eye(4)[first].sum(0)]
    )

  found = reconstructions.evaluate(
    lambda batch: batch, real, extract, count_codes=count
  ).values
  assert (found['codes_used_1'], found['codes_used_2']) == (0.25, 0.75)
  assert found['codes_used'] == 1
  share = np.bincount(all_of(real)[:, 0, 0, 0] % 3, minlength=3) / 40
  share = np.append(share, 1) / 2
  wanted = np.exp(-np.sum(share * np.log(share)))
  assert found['codes_perplexity'] == pytest.approx(wanted)

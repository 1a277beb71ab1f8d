"""Scores of two sets of images, with a feature network of a few numbers."""

import numpy as np
from picture_sets import pictures
import pytest
import tiny_network

from varjax import errors
from varjax.evals import frechet, kid
from varjax.scoring import images, scores, statistics


def test_equal_sets_are_at_distance_zero(network, seen):
  found = scores.score(seen, seen, network)
  assert abs(found.values['fd_tiny']) < 1e-6
  assert abs(found.values['sfd_tiny']) < 1e-6
  assert found.values['precision_tiny'] == found.values['recall_tiny'] == 1
  assert 'fid' not in found.values
  assert any('compare it only with scores of as many' in w for w in
             found.warnings)  # fmt: skip


def test_scores_are_those_of_the_metrics(network, extract, seen):
  samples = extract(images.of_array(pictures(30, 7), 'samples'))
  found = scores.score(samples, seen, network, scores.Options(limit=True))
  wanted = frechet.distance(
    samples.features.mean(0), np.cov(samples.features, rowvar=False),
    seen.features.mean(0), np.cov(seen.features, rowvar=False),
  )  # fmt: skip
  np.testing.assert_allclose(found.values['fd_tiny'], wanted, rtol=1e-4)
  estimate = kid.estimate(samples.features, seen.features)
  assert found.values['kd_tiny'] == estimate.value
  assert found.errors['kd_tiny'] == estimate.error
  assert 'fd_limit_tiny' in found.values
  assert 1 <= found.values['is_tiny'] <= 5
  assert any('30 with 40' in w for w in found.warnings)


def test_too_few_images_have_no_frechet_distance(network, extract, seen):
  few = extract(images.of_array(pictures(6, 3), 'few'))
  found = scores.score(few, seen, network)
  assert 'fd_tiny' not in found.values
  assert 'kd_tiny' in found.values
  assert 'use kd_tiny' in found.warnings[0]
  forced = scores.score(few, seen, network, scores.Options(force=True))
  assert forced.values['fd_tiny'] > 0
  assert 'was forced' in forced.warnings[0]


def test_comparisons_without_sense_are_refused(network, extract, seen):
  larger = extract(images.of_array(pictures(20, side=16), 'large'))
  with pytest.raises(errors.DataError, match='16x16 pixels, real of 12x12'):
    scores.score(larger, seen, network)
  other = tiny_network.make(seed=5)
  theirs = statistics.Extractor(other, 8)(images.of_array(pictures(20), 'x'))
  with pytest.raises(errors.DataError, match='features of one network'):
    scores.score(theirs, seen, other)


def test_only_the_standard_network_makes_fid():
  assert scores.name_of('fd', 'inception2015') == 'fid'
  assert scores.name_of('fd', 'efflite0') == 'fd_efflite0'

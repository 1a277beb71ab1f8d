"""Moments, Frechet distance, KID, precision/recall and IS, against oracles."""

import functools
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from varjax import errors
from varjax.evals import frechet, inception_score, kid, manifold
from varjax.evals.moments import Moments


def draw(n, size, seed=0, shift=0.0):
  return np.random.default_rng(seed).normal(shift, 1, (n, size))


# --- moments ------------------------------------------------------------------


@given(
  cuts=st.lists(st.integers(0, 40), max_size=6),
  order=st.randoms(use_true_random=False),
)
@settings(max_examples=50, deadline=None)
def test_moments_do_not_depend_on_how_a_set_is_cut(cuts, order):
  values = draw(40, 5) * 3 + 1e4
  edges = sorted([0, *cuts, 40])
  parts = [Moments.of(values[a:b]) for a, b in itertools.pairwise(edges)]
  order.shuffle(parts)
  total = functools.reduce(Moments.merge, parts)
  assert total.count == 40
  np.testing.assert_allclose(total.mean, values.mean(0), rtol=1e-14)
  np.testing.assert_allclose(
    total.covariance(), np.cov(values, rowvar=False), atol=1e-8
  )


def test_moments_do_not_cancel():
  """A sum of squares would have lost every digit of this variance."""
  values = 1e9 + draw(1000, 1)
  total = functools.reduce(
    Moments.merge, [Moments.of(part) for part in np.split(values, 10)]
  )
  np.testing.assert_allclose(
    total.covariance()[0, 0], np.var(values, ddof=1), rtol=1e-6
  )


def test_moments_refuse_what_has_none():
  with pytest.raises(errors.DataError, match='at least 2'):
    Moments.of(np.ones((1, 3))).covariance()
  with pytest.raises(errors.DataError, match='NaN'):
    Moments.of(np.array([[1.0, np.nan]]))
  with pytest.raises(errors.DataError, match='3 and of 2'):
    Moments.of(np.ones((2, 3))).merge(Moments.of(np.ones((2, 2))))


# --- Frechet distance ---------------------------------------------------------


def test_known_gaussians_have_their_closed_form():
  rng = np.random.default_rng(0)
  a, b = rng.uniform(0.1, 3, 6), rng.uniform(0.1, 3, 6)
  mean = rng.normal(size=6)
  # Commuting covariances, turned by one rotation: sum (sqrt a - sqrt b)^2.
  turn = scipy.stats.special_ortho_group.rvs(6, random_state=1)
  found = frechet.distance(
    mean, turn @ np.diag(a) @ turn.T, 0 * mean, turn @ np.diag(b) @ turn.T
  )
  wanted = mean @ mean + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
  np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_general_gaussians_agree_with_sqrtm():
  a, b = draw(50, 7) @ draw(7, 7, 3), draw(60, 7, 1, 0.4) @ draw(7, 7, 4)
  one, two = Moments.of(a), Moments.of(b)
  cov_a, cov_b = one.covariance(), two.covariance()
  shift = one.mean - two.mean
  wanted = shift @ shift + np.trace(
    cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real
  )
  found = frechet.distance(one.mean, cov_a, two.mean, cov_b)
  np.testing.assert_allclose(found, wanted, rtol=1e-9)
  back = frechet.distance(two.mean, cov_b, one.mean, cov_a)
  np.testing.assert_allclose(found, back, rtol=1e-10)


@pytest.mark.parametrize('images', [5, 60])
def test_equal_sets_are_at_distance_zero(images):
  """Also where there are fewer images than numbers in a descriptor."""
  values = draw(images, 40) * 30
  one = Moments.of(values)
  halves = Moments.of(values[3:]).merge(Moments.of(values[:3]))
  found = frechet.distance(
    one.mean, one.covariance(), halves.mean, halves.covariance()
  )
  assert 0 <= found < 1e-6


def test_what_is_no_covariance_is_refused():
  one, zero = np.eye(2), np.zeros(2)
  for bad, said in (
    (np.diag([1.0, -1.0]), 'negative eigenvalue'),
    (np.array([[1.0, 2.0], [0.0, 1.0]]), 'symmetric'),
    (np.diag([1.0, np.inf]), 'finite'),
    (np.eye(3), 'shape'),
  ):
    with pytest.raises(errors.DataError, match=said):
      frechet.distance(zero, bad, zero, one)


def test_the_limit_removes_the_bias_of_few_images():
  """The distance to the true Gaussian is 0; 2000 images say more."""
  values = draw(2000, 20)

  def estimate(index):
    part = Moments.of(values[index])
    return frechet.distance(
      part.mean, part.covariance(), np.zeros(20), np.eye(20)
    )

  limit = frechet.limit(estimate, 2000, smallest=700)
  assert limit.distances[0] > 1.5 * limit.distances[-1] > 0
  assert limit.slope > 0
  assert abs(limit.value) < 0.25 * limit.distances[-1]
  exact = frechet.fit_limit([10, 20, 40], [3 + 5 / n for n in (10, 20, 40)])
  np.testing.assert_allclose([exact.value, exact.slope], [3, 5], rtol=1e-9)
  assert exact.error < 1e-9


# --- KID ----------------------------------------------------------------------


def test_squared_mmd_agrees_with_the_double_sum():
  a, b = draw(6, 4), draw(5, 4, 1, 0.5)

  def kernel(x, y):
    return (sum(p * q for p, q in zip(x, y, strict=True)) / 4 + 1) ** 3

  within_a = [kernel(a[i], a[j]) for i in range(6) for j in range(6) if i != j]
  within_b = [kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j]
  across = [kernel(x, y) for x in a for y in b]
  wanted = np.mean(within_a) + np.mean(within_b) - 2 * np.mean(across)
  np.testing.assert_allclose(kid.squared_mmd(a, b), wanted, rtol=1e-12)


def test_kid_is_unbiased_and_its_error_is_honest():
  """Over many pairs of equal distributions the z-scores have variance 1."""
  scores = []
  for seed in range(60):
    found = kid.estimate(draw(80, 3, seed), draw(90, 3, seed + 1000), block=10)
    assert (found.blocks, found.block_images) == (8, 10)
    scores.append(found.value / found.error)
  assert abs(np.mean(scores)) < 0.4
  assert 0.7 < np.std(scores) < 1.6
  far = kid.estimate(draw(80, 3), draw(80, 3, 1, 1.0), block=10)
  assert far.value > 3 * far.error


def test_kid_of_few_images():
  found = kid.estimate(draw(3, 4), draw(5, 4, 1))
  assert (found.blocks, found.block_images, found.error) == (1, 3, None)
  with pytest.raises(errors.DataError, match='at least 2'):
    kid.estimate(draw(1, 4), draw(5, 4))


def test_kid_bootstrap_has_the_spread_of_fresh_draws():
  pairs = [(draw(60, 3, s), draw(70, 3, s + 1000, 0.5)) for s in range(60)]
  wanted = np.std([kid.squared_mmd(a, b) for a, b in pairs], ddof=1)
  drawn = [kid.bootstrap(a, b, replicates=200) for a, b in pairs]
  assert 0.8 < np.mean([d.std(ddof=1) for d in drawn]) / wanted < 1.25
  # Centred on the estimate: a repeated image is no pair.
  for found, (a, b) in zip(drawn[:20], pairs, strict=False):
    away = found.mean() - kid.squared_mmd(a, b)
    assert abs(away) < 5 * found.std() / np.sqrt(200)
  a, b = pairs[0]
  np.testing.assert_array_equal(kid.bootstrap(a, b), kid.bootstrap(a, b))


def test_kid_bootstrap_refuses_what_has_no_pairs():
  with pytest.raises(errors.DataError, match='at least 2'):
    kid.bootstrap(draw(1, 4), draw(5, 4))
  with pytest.raises(errors.DataError, match='do not compare'):
    kid.bootstrap(draw(3, 4), draw(5, 3))


# --- precision and recall -----------------------------------------------------


def brute_force(real, samples, k):
  """The definition, one pair at a time."""

  def radius(points, i):
    others = [
      np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i
    ]
    return sorted(others)[k - 1]

  def share(queries, points):
    radii = [radius(points, i) for i in range(len(points))]
    return np.mean(
      [
        any(
          np.linalg.norm(q - p) <= r for p, r in zip(points, radii, strict=True)
        )
        for q in queries
      ]
    )

  return share(samples, real), share(real, samples)


@pytest.mark.parametrize('k', [1, 3])
def test_precision_and_recall_agree_with_the_definition(k):
  real, samples = draw(30, 4) + 100, draw(25, 4, 1, 0.5) * 0.8 + 100
  wanted = brute_force(real, samples, k)
  assert 0 < wanted[1] < wanted[0] <= 1
  for chunk in (7, 1024):
    found = manifold.precision_recall(real, samples, k=k, chunk=chunk)
    np.testing.assert_allclose((found.precision, found.recall), wanted)


def test_precision_and_recall_tell_quality_from_variety():
  real = np.concatenate([draw(30, 3), draw(30, 3, 1, 50.0)])
  dropped = manifold.precision_recall(real, real[:30])
  assert dropped.precision == 1
  assert 0.5 <= dropped.recall < 0.6
  noisy = manifold.precision_recall(real, real + draw(60, 3, 2) * 9)
  assert noisy.precision < 0.3
  same = manifold.precision_recall(real, real.copy())
  assert (same.precision, same.recall) == (1, 1)
  with pytest.raises(errors.DataError, match='more than k=3'):
    manifold.precision_recall(real, real[:3])


# --- Inception score ----------------------------------------------------------


def test_inception_score_at_its_ends():
  sure = np.tile(np.log(np.eye(5) * (1 - 5e-12) + 1e-12), (4, 1))
  found = inception_score.inception_score(sure, 4)
  np.testing.assert_allclose((found.mean, found.deviation), (5, 0), atol=1e-6)
  unsure = np.full((20, 5), np.log(0.2))
  assert inception_score.inception_score(unsure).mean == pytest.approx(1)


def test_inception_score_agrees_with_scipy():
  log_probs = inception_score.log_softmax(draw(12, 6) * 3)
  wanted = []
  for part in np.split(np.exp(log_probs), 3):
    divergences = [scipy.stats.entropy(p, part.mean(0)) for p in part]
    wanted.append(np.exp(np.mean(divergences)))
  found = inception_score.inception_score(log_probs, 3)
  np.testing.assert_allclose(found.mean, np.mean(wanted), rtol=1e-12)
  np.testing.assert_allclose(found.deviation, np.std(wanted), rtol=1e-9)
  with pytest.raises(errors.DataError, match='13 splits'):
    inception_score.inception_score(log_probs, 13)

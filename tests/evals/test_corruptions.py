"""Damage does what it says, and scores see it."""

import jax
import numpy as np
import pytest
import skimage.data

from varjax import features
from varjax.evals import corruptions, kid


@pytest.fixture(scope='module')
def crops():
  """Thirty-two crops of three photographs, 48 pixels, in a mixed order."""
  rng, found = np.random.default_rng(0), []
  photographs = (
    skimage.data.chelsea(), skimage.data.coffee(), skimage.data.astronaut(),
  )  # fmt: skip
  for index in range(32):
    photograph = photographs[index % 3]
    top, left = (rng.integers(0, s - 96) for s in photograph.shape[:2])
    found.append(photograph[top : top + 96 : 2, left : left + 96 : 2])
  return np.stack(found)


def test_no_damage_changes_nothing(crops):
  for kind in corruptions.CORRUPTIONS:
    np.testing.assert_array_equal(
      corruptions.corrupt(crops[:2], kind, 0), crops[:2]
    )


def test_damage_is_what_it_says(crops):
  noisy = corruptions.corrupt(crops, 'noise', 10).astype(float) - crops
  inside = (crops > 40) & (crops < 215)
  assert noisy[inside].std() == pytest.approx(10, rel=0.05)
  blurred = corruptions.corrupt(crops[:4], 'blur', 1)
  rough = np.abs(np.diff(crops[:4].astype(float), axis=1)).mean()
  assert np.abs(np.diff(blurred.astype(float), axis=1)).mean() < 0.6 * rough
  swapped = corruptions.corrupt(crops[:4], 'swap', 2)
  # The same pixels, four of sixteen patches of them elsewhere.
  for before, after in zip(crops, swapped, strict=False):
    np.testing.assert_array_equal(
      np.sort(before.reshape(-1, 3), 0), np.sort(after.reshape(-1, 3), 0)
    )
    moved = (before != after).any(-1).reshape(4, 12, 4, 12).any((1, 3))
    assert moved.sum() == 4
  with pytest.raises(ValueError, match='at most 8'):
    corruptions.corrupt(crops[:1], 'swap', 9)


def test_damage_depends_on_the_image_and_the_seed_alone(crops):
  whole = corruptions.corrupt(crops[:3], 'noise', 5)
  np.testing.assert_array_equal(
    whole[:2], corruptions.corrupt(crops[:2], 'noise', 5)
  )
  assert (corruptions.corrupt(crops[:3], 'noise', 5, seed=1) != whole).any()


def test_scores_rise_with_every_kind_of_damage(crops):
  network = features.load('efflite0')
  apply = jax.jit(lambda p, x: network.apply(p, x).pooled)

  def see(images):
    return np.asarray(apply(network.params, images))

  reference, clean = see(crops[:16]), see(crops[16:])
  base = kid.squared_mmd(clean, reference)
  for kind, level in (('blur', 2), ('noise', 40), ('swap', 6)):
    given = see(corruptions.corrupt(crops[16:], kind, level))
    assert kid.squared_mmd(given, reference) > base, kind
    # Also against the undamaged images themselves.
    assert kid.squared_mmd(given, clean) > kid.squared_mmd(clean, clean)

"""Scores of a set of images against a reference.

Every score carries the name of its network: `fid` is the distance in
features of the TF-Inception network of 2015 and of nothing else. A
comparison that would mean nothing is refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from varjax import errors
from varjax.evals import frechet, inception_score, kid, manifold
from varjax.evals.moments import Moments
from varjax.features import Network, inception
from varjax.scoring.statistics import Statistics

# Below this, published scores of the same model differ by whole points.
USUAL_IMAGES = 10_000
# Names of the standard scores; other networks put theirs behind.
_STANDARD = {
  inception.NAME: {
    'fd': 'fid', 'sfd': 'sfid', 'kd': 'kid', 'is': 'is',
    'precision': 'precision', 'recall': 'recall',
  }
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
  """How scores are computed.

  Attributes:
    splits: of the Inception score.
    neighbours: k of precision and recall.
    kid_block: images in a block of KID.
    limit: also extrapolate the Frechet distance to infinitely many images.
    force: give a Frechet distance even of singular covariances.
    seed: of the random subsets.
  """

  splits: int = inception_score.SPLITS
  neighbours: int = manifold.NEIGHBOURS
  kid_block: int = kid.BLOCK_IMAGES
  limit: bool = False
  force: bool = False
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Scores:
  """Scores and what they are of.

  Attributes:
    values: by name, such as 'fd_efflite0'; errors: standard errors, where
      there is an honest one.
    warnings: sentences that belong to the numbers.
    images, reference_images: how many; None where a file does not say.
    network: name; identity: with weights and preprocessing.
  """

  values: dict[str, float]
  errors: dict[str, float]
  warnings: tuple[str, ...]
  images: int
  reference_images: int | None
  samples: str
  samples_fingerprint: str
  reference: str
  reference_fingerprint: str
  network: str
  identity: str

  def as_json(self) -> dict[str, Any]:
    """Plain values, for a file."""
    return dataclasses.asdict(self)


def name_of(kind: str, network: str) -> str:
  """The name of a score: 'fd' and 'efflite0' give 'fd_efflite0'."""
  return _STANDARD.get(network, {}).get(kind, f'{kind}_{network}')


def score(
  samples: Statistics,
  reference: Statistics,
  network: Network,
  options: Options | None = None,
) -> Scores:
  """All scores that the two sets allow.

  Args:
    samples: what is judged; its number of images is known.
    reference: what it is compared with: images, or moments alone.
    network: whose features both are.
    options: see `Options`.

  Raises:
    DataError: another network, another resolution, or too few images for
      any score.
  """
  options = options or Options()
  _check(samples, reference)
  assert samples.images is not None
  found = _Found(network.name)
  _score_moments(found, samples, reference, options)
  _score_descriptors(found, samples, reference, options)
  if samples.logits is not None:
    log_probs = inception_score.log_softmax(samples.logits)
    splits = min(options.splits, samples.images)
    sure = inception_score.inception_score(log_probs, splits)
    found.put('is', sure.mean)
    found.values[f'{found.name("is")}_deviation'] = sure.deviation
  return Scores(
    values=found.values,
    errors=found.errors,
    warnings=tuple(found.warnings),
    images=samples.images,
    reference_images=reference.images,
    samples=samples.label,
    samples_fingerprint=samples.fingerprint,
    reference=reference.label,
    reference_fingerprint=reference.fingerprint,
    network=network.name,
    identity=network.identity,
  )


@dataclasses.dataclass
class _Found:
  """Scores by their names, as they are found."""

  network: str
  values: dict[str, float] = dataclasses.field(default_factory=dict)
  errors: dict[str, float] = dataclasses.field(default_factory=dict)
  warnings: list[str] = dataclasses.field(default_factory=list)

  def name(self, kind: str) -> str:
    return name_of(kind, self.network)

  def put(self, kind: str, value: float, error: float | None = None) -> None:
    self.values[self.name(kind)] = value
    if error is not None:
      self.errors[self.name(kind)] = error


def _score_moments(
  found: _Found, samples: Statistics, reference: Statistics, options: Options
) -> None:
  """Frechet distances, where there are images enough for a covariance."""
  assert samples.images is not None
  smaller = min(samples.images, reference.images or samples.images)
  size = samples.pooled.mean.size
  full_rank = smaller > size
  if full_rank or options.force:
    found.put('fd', _frechet(samples, reference, 'pooled'))
    if samples.spatial is not None and reference.spatial is not None:
      found.put('sfd', _frechet(samples, reference, 'spatial'))
  if not full_rank:
    given = 'was forced and' if options.force else 'is not given: it'
    found.warnings.append(
      f'{found.name("fd")} {given} would depend on the number of images more '
      f'than on the images ({smaller} images, descriptors of {size} numbers); '
      f'use {found.name("kd")}'
    )
  elif smaller < USUAL_IMAGES:
    found.warnings.append(
      f'{found.name("fd")} of {smaller} images is too large by an amount that '
      'depends on their number; compare it only with scores of as many images'
    )
  if options.limit and (full_rank or options.force):
    limit = _limit(samples, reference, options)
    found.put('fd_limit', limit.value, limit.error)


def _score_descriptors(
  found: _Found, samples: Statistics, reference: Statistics, options: Options
) -> None:
  """Scores that need the descriptors of single images."""
  if samples.features is None or reference.features is None:
    found.warnings.append(
      'the reference holds moments and no images, so there is no KID, '
      'precision or recall'
    )
    return
  kernel = kid.estimate(
    samples.features,
    reference.features,
    block=options.kid_block,
    seed=options.seed,
  )
  found.put('kd', kernel.value, kernel.error)
  if kernel.error is None:
    found.warnings.append(
      f'the kernel distance of {kernel.block_images} images has no standard '
      'error; 8 are needed'
    )
  if min(len(samples.features), len(reference.features)) > options.neighbours:
    shares = manifold.precision_recall(
      reference.features, samples.features, k=options.neighbours
    )
    found.put('precision', shares.precision)
    found.put('recall', shares.recall)
  if len(samples.features) != len(reference.features):
    found.warnings.append(
      f'precision and recall compare {len(samples.features)} with '
      f'{len(reference.features)} images; both change with the numbers'
    )


def _check(samples: Statistics, reference: Statistics) -> None:
  if samples.network != reference.network:
    raise errors.DataError(
      f'{samples.label} was seen by {samples.network}, {reference.label} by '
      f'{reference.network}; scores compare features of one network'
    )
  check_sizes(samples.label, samples.size, reference.label, reference.size)


def check_sizes(
  label: str,
  size: tuple[int, int] | None,
  other_label: str,
  other_size: tuple[int, int] | None,
) -> None:
  """Refuses to compare images of different resolutions.

  Args:
    label, other_label: of the two sets, for the message.
    size, other_size: (height, width) of their images; None is unknown.

  Raises:
    DataError: both are known and they differ.
  """
  if size is None or other_size is None or size == other_size:
    return
  sides = ['x'.join(map(str, s)) for s in (size, other_size)]
  raise errors.DataError(
    f'{label} has images of {sides[0]} pixels, {other_label} of {sides[1]}; '
    'a score of one resolution says nothing of another, so resize the '
    'reference first'
  )


def _frechet(samples: Statistics, reference: Statistics, part: str) -> float:
  a, b = getattr(samples, part), getattr(reference, part)
  return frechet.distance(a.mean, a.covariance, b.mean, b.covariance)


def _limit(
  samples: Statistics, reference: Statistics, options: Options
) -> frechet.Limit:
  features = samples.features
  if features is None:
    raise errors.DataError(
      f'{samples.label}: a limit needs the descriptors of single images'
    )
  target = reference.pooled

  def estimate(index: np.ndarray) -> float:
    part = Moments.of(features[index])
    return frechet.distance(
      part.mean, part.covariance(), target.mean, target.covariance
    )

  smallest = min(max(len(features) // 2, 2), len(features) - 2)
  return frechet.limit(
    estimate, len(features), seed=options.seed, smallest=smallest, points=6
  )

"""Rejection sampling: of several candidates, the one a classifier prefers.

As VAR's "-re" rows do with an ImageNet classifier: it buys fidelity with
variety and compute. The classifier is a feature network's own.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np

from varjax import errors
from varjax.evals.inception_score import log_softmax
from varjax.scoring.statistics import Extractor

# (index [n], labels [n]) -> uint8 [n, H, W, 3]
Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]
CRITERIA = ('label', 'confidence')


@dataclasses.dataclass(frozen=True)
class Rejection:
  """How candidates are judged.

  Attributes:
    candidates: drawn for each image.
    criterion: 'label' keeps the candidate that is most probably of the
      class it was asked for; 'confidence' the one that the classifier is
      surest about, whatever it sees.
  """

  candidates: int
  criterion: str = 'label'


class Rejecter:
  """Draws candidates and keeps one for each image.

  Candidate j of image i is image i * candidates + j of the sampler, so the
  result depends on nothing but the index.
  """

  def __init__(
    self, draw: Draw, rejection: Rejection, extract: Extractor, classes: int
  ):
    """Checks that the classifier can judge.

    Raises:
      ConfigError: an unknown criterion, fewer than 2 candidates, or labels
        that are not the classes of the classifier.
    """
    if rejection.criterion not in CRITERIA:
      raise errors.ConfigError(
        f'criterion {rejection.criterion!r} is unknown; allowed: '
        f'{", ".join(CRITERIA)}'
      )
    if rejection.candidates < 2:
      raise errors.ConfigError(
        f'{rejection.candidates} candidates leave nothing to reject; at '
        'least 2 are needed'
      )
    network = extract.network
    if rejection.criterion == 'label' and classes != network.label_count:
      raise errors.ConfigError(
        f'the run has {classes} classes, {network.name} was trained on '
        f'{network.label_count} others; only the criterion confidence can be '
        'used'
      )
    self._draw, self._rejection, self._extract = draw, rejection, extract

  def __call__(self, index: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The images [n, H, W, 3] that are kept."""
    count = self._rejection.candidates
    candidates = (index[:, None] * count + np.arange(count)).ravel()
    images = self._draw(candidates, np.repeat(labels, count))
    log_probs = log_softmax(self._logits(images))
    if self._rejection.criterion == 'label':
      wanted = np.repeat(labels, count)
      merit = log_probs[np.arange(len(wanted)), wanted]
    else:
      merit = log_probs.max(1)
    best = merit.reshape(-1, count).argmax(1)
    return images[np.arange(len(index)) * count + best]

  def _logits(self, images: np.ndarray) -> np.ndarray:
    rows = self._extract.rows
    return np.concatenate(
      [
        self._extract.features(images[start : start + rows]).logits
        for start in range(0, len(images), rows)
      ]
    )

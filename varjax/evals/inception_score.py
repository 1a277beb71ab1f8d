"""Inception score (Salimans et al., arXiv 1606.03498).

exp(E_x KL(p(y|x) | p(y))): high when a classifier is sure of every image
and the images are of many classes. It looks at no real image.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from varjax import errors

SPLITS = 10


@dataclasses.dataclass(frozen=True)
class Score:
  """Mean and standard deviation over splits (0 of one split)."""

  mean: float
  deviation: float
  splits: int


def inception_score(log_probs: np.ndarray, splits: int = SPLITS) -> Score:
  """The score of images in consecutive splits of equal size.

  Args:
    log_probs: log class probabilities [n, J].
    splits: parts that are scored by themselves and averaged. The marginal
      p(y) is that of a part, so parts of few images score lower.

  Raises:
    DataError: fewer images than splits, or an array that is not 2-D.
  """
  log_probs = np.asarray(log_probs, np.float64)
  if log_probs.ndim != 2 or not 1 <= splits <= len(log_probs):
    raise errors.DataError(
      f'the Inception score of {len(log_probs)} images cannot have '
      f'{splits} splits'
    )
  scores = []
  for part in np.array_split(log_probs, splits):
    probs = np.exp(part)
    marginal = np.log(np.maximum(probs.mean(0), np.finfo(np.float64).tiny))
    divergence = np.where(probs > 0, probs * (part - marginal), 0.0).sum(1)
    scores.append(np.exp(divergence.mean()))
  return Score(float(np.mean(scores)), float(np.std(scores)), splits)


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Log probabilities [n, J] of logits, float64."""
  logits = np.asarray(logits, np.float64)
  shifted = logits - logits.max(1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

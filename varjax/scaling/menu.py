"""What there is to choose from: sizes with their costs, for a demand.

Between a ladder and a plan. Costs are the exact FLOPs of varjax.flops, of
training an image and of sampling one. Repeated data counts less where asked
(Muennighoff 2023, arXiv 2305.16264).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from varjax import errors, flops
from varjax.scaling import ladder as ladders
from varjax.scaling.ladder import Sizes
from varjax.scaling.law import Law


@dataclasses.dataclass(frozen=True)
class Demand:
  """What may be spent, and on which data.

  Attributes:
    flops: training and inference together.
    inference_images: images that will be sampled over the model's life.
    unique_images: in the training split; None if not known.
    repeat_constant: R_D*, epochs over which repeated data loses its worth;
      None counts every epoch as new data, as the fit did.
  """

  flops: float
  inference_images: float = 0.0
  unique_images: int | None = None
  repeat_constant: float | None = None

  def __post_init__(self):
    if not (math.isfinite(self.flops) and self.flops > 0):
      raise errors.ConfigError(f'budget={self.flops}: must be positive')
    if self.inference_images < 0:
      raise errors.ConfigError('inference_images must not be negative')
    if self.unique_images is not None and self.unique_images < 1:
      raise errors.ConfigError('unique_images must be at least 1')
    if self.repeat_constant is not None:
      if self.repeat_constant <= 0:
        raise errors.ConfigError('repeat_constant must be positive')
      if self.unique_images is None:
        raise errors.ConfigError('repeat_constant needs unique_images')


class Menu:
  """The sizes of a ladder with their exact costs, ready for any budget."""

  def __init__(self, law: Law, ladder: Sizes):
    self.law, self.ladder = law, ladder
    runs = [ladder.run(r) for r in ladder.rungs]
    self.positions = flops.sequence_of(ladder.base.tokenizer).positions
    self.n = np.array([ladders.params(r, law.n_convention) for r in runs])
    self.train = np.array(
      [flops.train_flops_per_image(r.model, r.tokenizer).total for r in runs],
      float,
    )
    self.sample = np.array(
      [
        flops.sampling_flops_per_image(r.model, r.tokenizer).total for r in runs
      ],
      float,
    )

  def images(self, demand: Demand) -> np.ndarray:
    """Training images that the budget pays for, [sizes]; 0 if none."""
    left = demand.flops - demand.inference_images * self.sample
    return np.maximum(left, 0.0) / self.train

  def losses(self, demand: Demand) -> np.ndarray:
    """Predicted loss of every size, [sizes]; infinite if not affordable."""
    images = self.images(demand)
    tokens = effective_tokens(images, self.positions, demand)
    with np.errstate(divide='ignore'):
      loss = self.law.loss(self.n, np.maximum(tokens, 1e-300))
    return np.where(images >= 1, loss, np.inf)


def effective_tokens(
  images: np.ndarray, positions: int, demand: Demand
) -> np.ndarray:
  """D' = U (1 + R* (1 - exp(-(D/U - 1) / R*))), and D within one epoch.

  Muennighoff 2023, equation 5; D itself without a repeat constant.
  """
  tokens = np.asarray(images, float) * positions
  if demand.repeat_constant is None or demand.unique_images is None:
    return tokens
  unique = float(demand.unique_images * positions)
  repeats = np.maximum(tokens / unique - 1.0, 0.0)
  worth = -np.expm1(-repeats / demand.repeat_constant)
  return np.minimum(tokens, unique * (1 + demand.repeat_constant * worth))

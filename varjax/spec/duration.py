"""How long: of a run, of a warm-up, between two checkpoints."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Duration:
  """A length of training; exactly one field is set (all zero: never).

  Attributes:
    images: images seen, repeats counted.
    steps: optimiser updates.
    epochs: passes over the training split.
    frac: share of the whole run, in [0, 1].
  """

  images: int = 0
  steps: int = 0
  epochs: float = 0.0
  frac: float = 0.0

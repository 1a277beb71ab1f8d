"""In which sequence codes are produced."""

from __future__ import annotations

import dataclasses

from varjax.spec.fields import not_identity


@dataclasses.dataclass(frozen=True)
class OrderSpec:
  """In which sequence codes are produced.

  Attributes:
    name: key of `orders.ORDERS`.
    permutation: 'raster', 'coarse' (nested sub-grids first) or 'random', of
      the set-wise order.
    sets: sizes of the sets that a permutation is cut into, in the set-wise
      order; () is one position each.
    context: how the set-wise order shows earlier sets to later ones,
      'shifted' or 'separate'.
    given: positions before the first set that are shown and not predicted.
    splits: sequential sets of each scale, in the split-scale order; () is
      one each.
    mask_ratio: how many positions the masked order hides in training,
      'cosine' or 'uniform'.
    turns: forward passes of the masked order's decoding; temperature: of
      the noise on its confidences.
  """

  name: str = 'scale'
  permutation: str = 'raster'
  sets: tuple[int, ...] = ()
  context: str = 'shifted'
  given: int = 0
  splits: tuple[int, ...] = ()
  mask_ratio: str = 'cosine'
  turns: int = not_identity(8)
  temperature: float = not_identity(4.5)

"""What the heads of a transformer look at: distance, scales, entropy.

Per layer and head, averaged over images and queries. The scales of VAR share
one frame, cells of the finest grid, so a distance means the same everywhere.
A transformer with random weights is the control: what it shows as well comes
from the step rule and not from training.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from jaxtyping import Float
import numpy as np


@dataclasses.dataclass(frozen=True)
class Patterns:
  """Of every layer and head.

  Attributes:
    distance: [depth, N], mean distance of what is looked at, in cells of the
      finest grid.
    entropy: [depth, N], of a query's weights, over the logarithm of how many
      keys it may see: 0 looks at one, 1 at all alike.
    mass: [depth, N, K, K], share of the weights of scale i that lies on
      scale j.
    chance: [K, K], the shares of a query that looks at all it may alike.
  """

  distance: np.ndarray
  entropy: np.ndarray
  mass: np.ndarray
  chance: np.ndarray


def patterns(
  weights: Float[np.ndarray, 'depth B N L L'],
  places: Float[np.ndarray, 'L 2'],
  block_sizes: Sequence[int],
) -> Patterns:
  """Summarises attention weights.

  Args:
    weights: rows sum to 1; a query may see its own block and earlier ones.
    places: cell of each position.
    block_sizes: positions of each scale.
  """
  scale = np.repeat(np.arange(len(block_sizes)), block_sizes)
  visible = (scale[:, None] >= scale[None]).astype(float)
  entropy = _entropy(np.asarray(weights, np.float64), visible.sum(axis=1))
  # The other measures are linear in the weights.
  weights = np.asarray(weights, np.float64).mean(axis=1)  # [depth, N, L, L]
  away = np.linalg.norm(places[:, None] - places[None], axis=-1)
  distance = np.einsum('dnqk,qk->dn', weights, away) / len(places)
  member = scale[:, None] == np.arange(len(block_sizes))[None]  # [L, K]
  share = member / member.sum(axis=0)
  alike = visible / visible.sum(axis=1, keepdims=True)
  return Patterns(
    distance=distance,
    entropy=entropy,
    mass=np.einsum('dnqk,qi,kj->dnij', weights, share, member),
    chance=np.einsum('qk,qi,kj->ij', alike, share, member),
  )


def _entropy(weights: np.ndarray, seen: np.ndarray) -> np.ndarray:
  """Mean over images and over the queries that have a choice, [depth, N]."""
  logs = np.log(np.where(weights > 0, weights, 1))
  nats = -(weights * logs).sum(axis=-1)  # [depth, B, N, L]
  choice = seen > 1
  return (nats[..., choice] / np.log(seen[choice])).mean(axis=(1, 3))

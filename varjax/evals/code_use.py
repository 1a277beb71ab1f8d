"""How well a tokenizer uses its codebook, from counts of its codes.

Shares of codes that were picked at all and the perplexity, over all scales
and for each. An evaluation counts with `tokenizers.usage.count_codes`.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class CodeUse:
  """Use of V codes; K is scales times codes per position.

  Attributes:
    share: of the codes that were picked; shares: [K], the same by scale.
    perplexity: exp of the entropy of all picks; perplexities: [K].
  """

  share: float
  shares: np.ndarray  # [K]
  perplexity: float
  perplexities: np.ndarray  # [K]


def of_counts(picks: np.ndarray) -> CodeUse:
  """Use of the codes that were picked so often, [K, V]."""
  total = picks.sum(0)
  return CodeUse(
    share=float(np.mean(total > 0)),
    shares=(picks > 0).mean(1),
    perplexity=_perplexity(total),
    perplexities=np.array([_perplexity(row) for row in picks]),
  )


def _perplexity(picks: np.ndarray) -> float:
  share = picks[picks > 0] / picks.sum()
  return float(np.exp(-np.sum(share * np.log(share))))

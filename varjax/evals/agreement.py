"""How far two encodings of the same images agree, code by code.

Rounding in the network moves features a little, and a feature near a border
changes its code; a residual scale then changes all that follow.
"""

from __future__ import annotations

import numpy as np

from varjax.types import CodeSpec


def code_agreement(
  found: np.ndarray, reference: np.ndarray, code_spec: CodeSpec
) -> np.ndarray:
  """Share of equal codes at each scale, and over all of them.

  Args:
    found, reference: codes [B, L, R] of the same images.
    code_spec: of both.

  Returns:
    float64 [K + 1] in [0, 1]; the last entry is over all codes.
  """
  equal = (np.asarray(found) == np.asarray(reference)).mean((0, 2))
  scales = np.split(equal, code_spec.offsets[1:-1])
  return np.array([*(scale.mean() for scale in scales), equal.mean()])

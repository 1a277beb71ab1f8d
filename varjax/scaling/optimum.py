"""The compute-optimal split of a surface L = E + A N^-alpha + B D^-beta.

With C = k N D (k = 6 by the usual convention; 4 or less where AdaLN is used
once per image), N*(C) = G (C/k)^a and D*(C) = (C/k)^b / G (Hoffmann 2022,
equation 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def exponents(params: Mapping[str, Any]) -> dict[str, Any]:
  """{a, b, G, gamma}: N* ~ C^a, D* ~ C^b, L - E ~ C^-gamma.

  Args:
    params: A, B, alpha, beta as floats or arrays of one shape.
  """
  alpha, beta = np.asarray(params['alpha']), np.asarray(params['beta'])
  with np.errstate(all='ignore'):
    ratio = alpha * np.asarray(params['A']) / (beta * np.asarray(params['B']))
    return {
      'a': beta / (alpha + beta),
      'b': alpha / (alpha + beta),
      'G': ratio ** (1.0 / (alpha + beta)),
      'gamma': alpha * beta / (alpha + beta),
    }


def optimum(
  params: Mapping[str, Any], flops: Any, k: float = 6.0
) -> tuple[Any, Any, Any]:
  """N*, D* and the loss at the optimum of a budget.

  Args:
    params: E, A, B, alpha, beta, floats or arrays.
    flops: the budget C in floating point operations.
    k: C = k N D.

  Returns:
    (N*, D*, L*), shaped as params and flops broadcast.
  """
  split = exponents(params)
  ratio = np.asarray(flops) / k
  n = split['G'] * ratio ** split['a']
  d = ratio ** split['b'] / split['G']
  return n, d, surface(params, n, d)


def surface(params: Mapping[str, Any], n: Any, d: Any) -> Any:
  """E + A N^-alpha + B D^-beta."""
  p = {key: np.asarray(value) for key, value in params.items()}
  return p['E'] + p['A'] * n ** -p['alpha'] + p['B'] * d ** -p['beta']

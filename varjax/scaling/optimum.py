"""The compute-optimal split of a surface L = E + A N^-alpha + B D^-beta.

With C = k N D (k = 6 by the usual convention; 4 or less where AdaLN is used
once per image), N*(C) = G (C/k)^a and D*(C) = (C/k)^b / G (Hoffmann 2022,
equation 4). A model that is also sampled from should be smaller and trained
longer (Sardana 2024, arXiv 2401.00448).
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


def with_inference(
  params: Mapping[str, Any],
  flops: Any,
  k: float,
  k_inference: float,
  d_inference: float,
) -> tuple[Any, Any, Any]:
  """N*, D*, L* where a budget pays for training and for inference.

  Minimises L(N, D) under k N D + k' N D' = C (Sardana 2024, arXiv
  2401.00448, section 2, with C given instead of the loss).

  Args:
    params: E, A, B, alpha, beta, floats or arrays.
    flops: the budget C.
    k: training FLOPs are k N D.
    k_inference: inference FLOPs are this times N times d_inference (2, or
      what sampling with guidance and decoding really costs).
    d_inference: tokens that will be sampled over the model's life.

  Returns:
    (N*, D*, L*), shaped as params and flops broadcast.
  """
  best, _, loss = optimum(params, flops, k)
  if not d_inference > 0:
    return best, (np.asarray(flops) / k) / best, loss
  # Paying per parameter never makes the best model larger.
  most = np.asarray(flops) / (k_inference * d_inference)
  high = np.log(np.minimum(best, most * (1 - 1e-9)))

  def tokens(log_n: np.ndarray) -> np.ndarray:
    n = np.exp(log_n)
    return (np.asarray(flops) / n - k_inference * d_inference) / k

  def value(log_n: np.ndarray) -> np.ndarray:
    d = np.maximum(tokens(log_n), 1e-300)
    return surface(params, np.exp(log_n), d)

  log_n = _minimise(value, high - 20.0, high)
  n, d = np.exp(log_n), tokens(log_n)
  return n, d, surface(params, n, d)


def cheapest(
  params: Mapping[str, Any],
  loss: Any,
  k: float = 6.0,
  k_inference: float = 2.0,
  d_inference: float = 0.0,
) -> tuple[Any, Any, Any]:
  """N, D and cost of the cheapest model that reaches a loss.

  Minimises k N D + k' N D' under L(N, D) = loss (Sardana 2024, arXiv
  2401.00448, section 2, with 6 and 2 for k and k'). Without inference this
  is `optimum` read backwards.

  Args:
    params: E, A, B, alpha, beta, floats or arrays.
    loss: the target.
    k, k_inference, d_inference: as of `with_inference`.

  Returns:
    (N, D, FLOPs of both), as params and loss broadcast; nan where the floor
    E is not below the loss.
  """
  p = {key: np.asarray(value, float) for key, value in params.items()}
  with np.errstate(all='ignore'):
    left = np.where(
      np.asarray(loss) > p['E'], np.asarray(loss) - p['E'], np.nan
    )
    # At the optimum alpha A N^-alpha = beta B D^-beta.
    n_free = (p['A'] * (1 + p['alpha'] / p['beta']) / left) ** (1 / p['alpha'])
    least = (p['A'] / left) ** (1 / p['alpha'])

    def tokens(log_n: np.ndarray) -> np.ndarray:
      rest = left - p['A'] * np.exp(-p['alpha'] * log_n)
      return (p['B'] / np.maximum(rest, 1e-300)) ** (1 / p['beta'])

    def value(log_n: np.ndarray) -> np.ndarray:
      # Its logarithm: near the least size the tokens overflow.
      return log_n + np.log(k * tokens(log_n) + k_inference * d_inference)

    log_n = np.log(n_free)
    if d_inference > 0:
      log_n = _minimise(value, np.log(least), log_n)
    n = np.exp(log_n)
    d = tokens(log_n)
    return n, d, k * n * d + k_inference * n * d_inference


def _minimise(value, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """Golden-section search of many unimodal functions at once."""
  ratio = (np.sqrt(5.0) - 1) / 2
  low, high = np.broadcast_arrays(np.asarray(low, float), high)
  for _ in range(90):
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    left = value(a) < value(b)
    low, high = np.where(left, low, a), np.where(left, b, high)
  return (low + high) / 2

"""Kernel Inception distance (Binkowski et al., arXiv 1801.01401).

The unbiased squared maximum mean discrepancy with the kernel
(x.y / F + 1)^3. Unlike a Frechet distance it has no bias in the number of
images, so it is what small sets are compared by. The mean over disjoint
blocks has an honest standard error; random subsets that overlap have none.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from varjax import errors

BLOCK_IMAGES = 1000


@dataclasses.dataclass(frozen=True)
class Kid:
  """An estimate.

  Attributes:
    value: mean over blocks; may be negative, as an unbiased estimate of a
      small positive number can be.
    error: standard error over blocks; None of a single block.
    blocks: how many; block_images: images of each set in a block.
  """

  value: float
  error: float | None
  blocks: int
  block_images: int


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
  """Unbiased squared MMD of descriptors [n, F] and [m, F].

  Raises:
    DataError: a set of fewer than 2.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  n, m = len(a), len(b)
  if min(n, m) < 2:
    raise errors.DataError(
      f'KID needs at least 2 images in each set, not {n} and {m}'
    )
  within_a = _kernel(a, a)
  within_b = _kernel(b, b)
  return float(
    (within_a.sum() - np.trace(within_a)) / (n * (n - 1))
    + (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
    - 2 * _kernel(a, b).mean()
  )


def estimate(
  a: np.ndarray, b: np.ndarray, *, block: int = BLOCK_IMAGES, seed: int = 0
) -> Kid:
  """KID by disjoint random blocks of both sets.

  Args:
    a, b: descriptors [n, F] and [m, F].
    block: images of each set in a block; lowered to a quarter of the
      smaller set, so that there are four blocks to take an error from.
    seed: of the order in which images are dealt to blocks.

  Raises:
    DataError: a set of fewer than 2, or descriptors of different sizes.
  """
  if a.shape[1:] != b.shape[1:]:
    raise errors.DataError(
      f'descriptors of shapes {a.shape[1:]} and {b.shape[1:]} do not compare'
    )
  smaller = min(len(a), len(b))
  block = min(block, smaller // 4 if smaller >= 8 else smaller)
  if block < 2:
    return Kid(squared_mmd(a, b), None, 1, smaller)
  rng = np.random.default_rng(seed)
  order_a, order_b = rng.permutation(len(a)), rng.permutation(len(b))
  blocks = smaller // block
  values = [
    squared_mmd(
      a[order_a[i * block : (i + 1) * block]],
      b[order_b[i * block : (i + 1) * block]],
    )
    for i in range(blocks)
  ]
  error = np.std(values, ddof=1) / np.sqrt(blocks) if blocks > 1 else None
  return Kid(
    float(np.mean(values)),
    None if error is None else float(error),
    blocks,
    block,
  )


def bootstrap(
  a: np.ndarray, b: np.ndarray, *, replicates: int = 1000, seed: int = 0
) -> np.ndarray:
  """Squared MMD of sets drawn again from both, [replicates].

  For sets too small for blocks. An image that is drawn twice is not paired
  with itself: its kernel is that of no two images, and would make every
  replicate too large.

  Args:
    a, b: descriptors [n, F] and [m, F].
    replicates: how often both sets are drawn, with replacement.
    seed: of the draws.

  Raises:
    DataError: a set of fewer than 2, or descriptors of different sizes.
  """
  if a.shape[1:] != b.shape[1:]:
    raise errors.DataError(
      f'descriptors of shapes {a.shape[1:]} and {b.shape[1:]} do not compare'
    )
  if min(len(a), len(b)) < 2:
    raise errors.DataError(
      f'KID needs at least 2 images in each set, not {len(a)} and {len(b)}'
    )
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  rng = np.random.default_rng(seed)

  def draw(n):
    return rng.multinomial(n, np.full(n, 1 / n), replicates).astype(np.float64)

  def within(kernel, times):
    """Mean over pairs of different images."""
    np.fill_diagonal(kernel, 0)
    pairs = times.sum(1) ** 2 - (times**2).sum(1)
    return np.einsum('rn,rn->r', times @ kernel, times) / pairs

  times_a, times_b = draw(len(a)), draw(len(b))
  across = np.einsum('rm,rm->r', times_a @ _kernel(a, b), times_b)
  return (
    within(_kernel(a, a), times_a)
    + within(_kernel(b, b), times_b)
    - 2 * across / (len(a) * len(b))
  )


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return (a @ b.T / a.shape[1] + 1) ** 3

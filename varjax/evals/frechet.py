"""Frechet distance between Gaussians, and its limit in the number of images.

The distance of Frechet (1957) with the closed form of Dowson and Landau
(1982), as used for FID (Heusel et al., arXiv 1706.08500). Estimated from n
images it is too large by about c/n; Chong and Forsyth (arXiv 1911.07023)
fit that line and report where it meets 1/n = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from varjax import errors


def distance(
  mean_a: np.ndarray,
  cov_a: np.ndarray,
  mean_b: np.ndarray,
  cov_b: np.ndarray,
) -> float:
  """Squared Frechet distance of two Gaussians, float64 throughout.

  |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2). The last trace is
  the sum of the singular values of A^1/2 B^1/2. Singular values have an
  absolute error of machine precision; square roots of eigenvalues of the
  product would have that of its root, 1e-8 for each of the many null
  directions of a covariance of few images.

  Args:
    mean_a, mean_b: [F].
    cov_a, cov_b: [F, F], symmetric and positive semi-definite.

  Raises:
    DataError: shapes that do not fit, a value that is not finite, or a
      matrix that is no covariance.
  """
  mean_a, mean_b = (np.asarray(m, np.float64) for m in (mean_a, mean_b))
  cov_a, cov_b = (np.asarray(c, np.float64) for c in (cov_a, cov_b))
  size = mean_a.size
  if mean_a.shape != (size,) or mean_b.shape != (size,):
    raise errors.DataError(
      f'means of shapes {mean_a.shape} and {mean_b.shape} do not compare'
    )
  shift = mean_a - mean_b
  root_a, root_b = _root(cov_a, size), _root(cov_b, size)
  cross = np.linalg.svd(root_a @ root_b, compute_uv=False).sum()
  spread = np.trace(cov_a) + np.trace(cov_b) - 2 * cross
  # Rounding can leave a distance of nearly nothing below nothing.
  return float(max(shift @ shift + spread, 0.0))


def _root(cov: np.ndarray, size: int) -> np.ndarray:
  """The symmetric square root of a covariance."""
  if cov.shape != (size, size) or not np.isfinite(cov).all():
    raise errors.DataError(
      f'a covariance must be finite and of shape {(size, size)}, not '
      f'{cov.shape}'
    )
  scale = np.abs(cov).max(initial=0.0)
  if np.abs(cov - cov.T).max(initial=0.0) > 1e-6 * scale:
    raise errors.DataError('a covariance must be symmetric')
  values, vectors = np.linalg.eigh((cov + cov.T) / 2)
  if values[:1].min(initial=0.0) < -1e-6 * scale * size:
    raise errors.DataError(
      f'a covariance must have no negative eigenvalue, this one has '
      f'{values[0]:.3g}'
    )
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


@dataclasses.dataclass(frozen=True)
class Limit:
  """A line through distances against 1/n.

  Attributes:
    value: the distance at 1/n = 0.
    slope: change of the distance per 1/n.
    counts, distances: the points.
    error: standard error of `value` from the scatter about the line; the
      points share images, so it is a lower bound.
  """

  value: float
  slope: float
  counts: tuple[int, ...]
  distances: tuple[float, ...]
  error: float


def limit(
  estimate: Callable[[np.ndarray], float],
  total: int,
  *,
  points: int = 8,
  seed: int = 0,
  smallest: int = 0,
) -> Limit:
  """The distance that infinitely many images would have.

  Args:
    estimate: from an index array into the images to their distance.
    total: how many images there are.
    points: sizes of subsets, evenly spaced in n (as in the paper).
    seed: of the random subsets.
    smallest: images of the smallest subset; 0 is a tenth of `total`.

  Raises:
    DataError: too few images for `points` different sizes.
  """
  smallest = smallest or max(total // 10, 2)
  counts = np.unique(np.linspace(smallest, total, points).round().astype(int))
  if len(counts) < 3:
    raise errors.DataError(
      f'{total} images cannot be extrapolated; at least 3 sizes of subsets '
      'are needed'
    )
  rng = np.random.default_rng(seed)
  distances = [
    estimate(rng.choice(total, int(n), replace=False)) for n in counts
  ]
  return fit_limit(counts.tolist(), distances)


def fit_limit(counts: Sequence[int], distances: Sequence[float]) -> Limit:
  """Least squares of the distances against 1/n."""
  inverse = 1 / np.asarray(counts, np.float64)
  design = np.stack([np.ones_like(inverse), inverse], 1)
  values = np.asarray(distances, np.float64)
  solution, *_ = np.linalg.lstsq(design, values, rcond=None)
  residual = values - design @ solution
  variance = residual @ residual / max(len(values) - 2, 1)
  spread = np.linalg.inv(design.T @ design)[0, 0]
  return Limit(
    value=float(solution[0]),
    slope=float(solution[1]),
    counts=tuple(int(n) for n in counts),
    distances=tuple(float(d) for d in values),
    error=float(np.sqrt(variance * spread)),
  )

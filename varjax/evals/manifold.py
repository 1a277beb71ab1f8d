"""Precision and recall of samples (Kynkaanniemi et al., arXiv 1904.06991).

A set is the union of balls about its descriptors, each reaching to its k-th
nearest neighbour. Precision is the share of samples inside the set of real
images, recall the share of real images inside the set of samples.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from varjax import errors

NEIGHBOURS = 3
_CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Manifold:
  """Shares in [0, 1]; see the module."""

  precision: float
  recall: float


def precision_recall(
  real: np.ndarray,
  samples: np.ndarray,
  *,
  k: int = NEIGHBOURS,
  chunk: int = _CHUNK,
) -> Manifold:
  """Precision and recall of `samples` against `real`.

  Args:
    real, samples: descriptors [n, F] and [m, F].
    k: which nearest neighbour, itself not counted, a ball reaches.
    chunk: rows of distances held at once.

  Raises:
    DataError: a set of no more than k images.
  """
  if min(len(real), len(samples)) <= k:
    raise errors.DataError(
      f'precision and recall need more than k={k} images in each set, not '
      f'{len(real)} and {len(samples)}'
    )
  # Distances do not change, and small numbers lose less in a.a + b.b - 2 a.b.
  centre = np.asarray(real, np.float64).mean(0)
  real = (real - centre).astype(np.float32)
  samples = (samples - centre).astype(np.float32)
  return Manifold(
    precision=_share_inside(samples, real, _radii(real, k, chunk), chunk),
    recall=_share_inside(real, samples, _radii(samples, k, chunk), chunk),
  )


def _radii(points: np.ndarray, k: int, chunk: int) -> np.ndarray:
  """Squared distance of each point to its k-th nearest other, [n]."""
  radii = []
  for start, rows in _chunks(points, chunk):
    radii.append(_kth(jnp.asarray(rows), jnp.asarray(points), start, k))
  return np.concatenate([np.asarray(r) for r in radii])[: len(points)]


def _share_inside(
  queries: np.ndarray, points: np.ndarray, radii: np.ndarray, chunk: int
) -> float:
  inside = [
    np.asarray(_inside(jnp.asarray(rows), jnp.asarray(points), radii))
    for _, rows in _chunks(queries, chunk)
  ]
  return float(np.concatenate(inside)[: len(queries)].mean())


def _chunks(points: np.ndarray, chunk: int):
  """(start, rows); the last is padded, because a new shape compiles."""
  chunk = min(chunk, len(points))
  for start in range(0, len(points), chunk):
    rows = points[start : start + chunk]
    yield start, np.pad(rows, ((0, chunk - len(rows)), (0, 0)))


def _squared(a: jax.Array, b: jax.Array) -> jax.Array:
  product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
  return (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * product


@functools.partial(jax.jit, static_argnames='k')
def _kth(rows: jax.Array, points: jax.Array, start: int, k: int) -> jax.Array:
  squared = _squared(rows, points)
  row = start + jnp.arange(len(rows))[:, None]
  own = row == jnp.arange(len(points))[None]
  nearest, _ = jax.lax.top_k(-jnp.where(own, jnp.inf, squared), k)
  return -nearest[:, -1]


@jax.jit
def _inside(rows: jax.Array, points: jax.Array, radii: jax.Array) -> jax.Array:
  return (_squared(rows, points) <= radii[None]).any(1)

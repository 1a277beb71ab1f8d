"""Mean and covariance of a stream of descriptors, mergeable and in float64.

What a Frechet distance needs of a set of images. Parts of a set can be
counted anywhere, in batches of any size, and merged in any order: the
pairwise update of Chan, Golub and LeVeque (1983), which does not cancel
like a sum of squares does.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from varjax import errors


@dataclasses.dataclass(frozen=True)
class Moments:
  """Moments of `count` descriptors of F numbers.

  Attributes:
    count: how many.
    mean: [F], float64.
    scatter: [F, F], float64, the sum of outer products of deviations.
  """

  count: int
  mean: np.ndarray
  scatter: np.ndarray

  @classmethod
  def empty(cls, size: int) -> Moments:
    """Of no descriptors of `size` numbers."""
    return cls(0, np.zeros(size), np.zeros((size, size)))

  @classmethod
  def of(cls, values: np.ndarray) -> Moments:
    """Of a batch [n, F].

    Raises:
      DataError: a value is NaN or infinite.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
      raise errors.DataError('a descriptor holds NaN or infinity')
    if not len(values):
      return cls.empty(values.shape[1])
    mean = values.mean(0)
    centred = values - mean
    return cls(len(values), mean, centred.T @ centred)

  def merge(self, other: Moments) -> Moments:
    """Moments of both sets together.

    Raises:
      DataError: descriptors of another size.
    """
    if self.mean.shape != other.mean.shape:
      raise errors.DataError(
        f'descriptors of {self.mean.size} and of {other.mean.size} numbers '
        'cannot be put together'
      )
    count = self.count + other.count
    if not self.count or not other.count:
      return self if self.count else other
    shift = other.mean - self.mean
    return Moments(
      count,
      self.mean + shift * (other.count / count),
      self.scatter
      + other.scatter
      + np.outer(shift, shift) * (self.count * other.count / count),
    )

  def covariance(self) -> np.ndarray:
    """Unbiased covariance [F, F], as `np.cov` gives it.

    Raises:
      DataError: fewer than two descriptors.
    """
    if self.count < 2:
      raise errors.DataError(
        f'{self.count} images have no covariance; at least 2 are needed'
      )
    return self.scatter / (self.count - 1)


def merge_processes(mine: Moments) -> Moments:
  """The moments of every process of a multi-host program, merged.

  Every process calls this and gets the same result, bit for bit.
  """
  if jax.process_count() == 1:
    return mine
  packed = np.concatenate(
    [[float(mine.count)], mine.mean, mine.scatter.ravel()]
  )
  size = mine.mean.size
  total = Moments.empty(size)
  for row in gather(packed):
    part = Moments(
      round(row[0]), row[1 : size + 1], row[size + 1 :].reshape(size, size)
    )
    total = total.merge(part)
  return total


def gather(values: np.ndarray) -> np.ndarray:
  """An array of every process, stacked [processes, ...], bits unchanged.

  JAX would round float64 to float32 on the way, so bytes travel.
  """
  from jax.experimental import multihost_utils

  values = np.ascontiguousarray(values)
  sent = np.frombuffer(values.tobytes(), np.uint8)
  received = np.asarray(multihost_utils.process_allgather(sent))
  shape = (received.shape[0], *values.shape)
  return np.frombuffer(received.tobytes(), values.dtype).reshape(shape)

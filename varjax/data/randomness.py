"""Seeded randomness of the data pipeline, the same on every machine.

Integer hashes instead of a generator: a value depends on its coordinates
alone, so that any example of any epoch can be made without the ones before
it, by any process. The mixing function is splitmix64 (Steele, Lea and Flood
2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import functools

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def uniforms(*coordinates: int, count: int) -> tuple[float, ...]:
  """`count` values in [0, 1) that depend on the coordinates only."""
  key = _fold(coordinates)
  return tuple(
    (_mix((key + n * _GOLDEN) & _MASK) >> 11) * 2.0**-53
    for n in range(1, count + 1)
  )


@functools.lru_cache(maxsize=4)
def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
  """A random order of range(size), another one in every epoch.

  Returns:
    int64 [size], read-only. The last few are kept: all batches of an epoch
    ask for the same one.
  """
  key = np.uint64(_fold((seed, epoch)))
  with np.errstate(over='ignore'):
    counters = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    value = counters + key
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
  order = np.argsort(value, kind='stable')
  order.flags.writeable = False
  return order


def _fold(coordinates: tuple[int, ...]) -> int:
  key = 0
  for coordinate in coordinates:
    key = _mix((key ^ (coordinate & _MASK)) + _GOLDEN & _MASK)
  return key


def _mix(value: int) -> int:
  value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
  value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
  return value ^ (value >> 31)

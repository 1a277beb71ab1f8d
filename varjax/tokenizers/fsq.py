"""Finite scalar quantisation: every channel rounded to a few levels.

The codebook is the product of the levels and exists nowhere: a code is its
digits in the mixed radix of the levels, the first channel least significant
(FSQ, arXiv 2309.15505, section 3.1 and appendix A).
"""

from __future__ import annotations

import itertools
import operator

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from varjax.tokenizers.base import Quantized
from varjax.tokenizers.grid import GridQuantizer, to_grid, to_rows
from varjax.types import Codes

# Keeps the outermost levels reachable: tanh only approaches 1.
_MARGIN = 1e-3


@flax.struct.dataclass
class ScalarQuantizer(GridQuantizer):
  """Without weights; codes are int32 [B, L, 1]."""

  def quantize(self, f: Float[Array, 'B P P C']) -> Quantized:
    """Training forward: the rounding is straight through, the bound is not.

    There is no loss.
    """
    bounded = bound(to_rows(f), self.spec.levels)
    digits = jnp.round(bounded)
    through = bounded + jax.lax.stop_gradient(digits - bounded)
    return Quantized(
      features=to_grid(through / self._half, self.spec.grids[-1]),
      loss=jnp.float32(0),
      codes=self._index(digits),
    )

  def encode(self, f: Float[Array, 'B P P C']) -> Codes:
    """Codes [B, L, 1] of the rounded features."""
    return self._index(jnp.round(bound(to_rows(f), self.spec.levels)))

  def embed(self, codes: Int[Array, 'B T 1']) -> Float[Array, 'B T C']:
    """Codes as their levels, scaled to [-1, 1]."""
    basis = radix(self.spec.levels)
    digits = codes // basis[None, None]
    digits %= np.array(self.spec.levels, np.int32)[None, None]
    return (digits - self._half).astype(jnp.float32) / self._half

  @property
  def _half(self) -> np.ndarray:
    return (np.array(self.spec.levels, np.int32) // 2)[None, None]

  def _index(self, digits: Float[Array, 'B L C']) -> Codes:
    digits = digits.astype(jnp.int32) + self._half
    index = digits * radix(self.spec.levels)[None, None]
    return jnp.sum(index, -1, keepdims=True)


def bound(
  z: Float[Array, 'B L C'], levels: tuple[int, ...]
) -> Float[Array, 'B L C']:
  """Squashes each channel so that rounding gives its number of levels.

  For an even number the range is shifted by half a level, and the tanh with
  it, so that 0 stays 0.
  """
  count = np.array(levels, np.float32)
  half = (count - 1) * (1 + _MARGIN) / 2
  offset = np.where(count % 2 == 0, np.float32(0.5), np.float32(0))
  shift = np.arctanh(offset / half)
  return jnp.tanh(z + shift[None, None]) * half[None, None] - offset[None, None]


def radix(levels: tuple[int, ...]) -> np.ndarray:
  """Place value of each channel: 1, levels[0], levels[0] levels[1], ..."""
  places = itertools.accumulate((1, *levels[:-1]), operator.mul)
  return np.array(list(places), np.int32)

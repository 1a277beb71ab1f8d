"""Thresholds of a row without sorting it.

Top-k and top-p filters need one number per row: the value from which on codes
are kept. Floats are mapped to integers of the same order, and the threshold
is built digit by digit, largest digit first: a fixed number of passes that
compare and sum, whatever the row holds. A row of 4096 logits is 16 kB, so
that the passes read a cache where a sort would write the row many times.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt
import numpy as np

# Of a digit. Each pass compares with all values of a digit at once: more
# bits are fewer passes over the row and more comparisons in each.
DIGIT_BITS = 2
_TOP_BIT = np.uint32(1 << 31)


def ordered(x: Float[Array, '*S V']) -> UInt[Array, '*S V']:
  """Integers in the order of float32 values; both zeros are equal.

  Args:
    x: finite or infinite, not NaN.
  """
  x = x.astype(jnp.float32)
  bits = lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)
  # Negative numbers are stored as sign and magnitude: their order is reversed.
  return jnp.where(bits >= _TOP_BIT, ~bits, bits | _TOP_BIT)


def largest(
  accepts: Callable[[UInt[Array, '*S']], Bool[Array, '*S']],
  shape: tuple[int, ...],
  bits: int = 32,
  digit_bits: int = DIGIT_BITS,
) -> UInt[Array, '*S']:
  """The largest integer of `bits` bits that a monotone test accepts, per row.

  Args:
    accepts: true up to some integer and false above it, in each row. What it
      says of 0 is taken to be true.
    shape: of the rows.
    bits: of the integers; rounded up to whole digits.
    digit_bits: of a digit; the result does not depend on it.
  """
  digits = -(-bits // digit_bits)

  def settle(digit: jax.Array, found: jax.Array) -> jax.Array:
    shift = jnp.uint32(digit_bits) * (digits - 1 - digit).astype(jnp.uint32)
    passed = jnp.zeros(shape, jnp.uint32)
    for value in range(1, 1 << digit_bits):
      candidate = found | (jnp.uint32(value) << shift)
      passed += accepts(candidate).astype(jnp.uint32)
    return found | (passed << shift)

  return lax.fori_loop(0, digits, settle, jnp.zeros(shape, jnp.uint32))

"""Codes as sub-tokens: what a factorised head predicts of a large vocabulary.

A code below b^F is written with F digits in base b, the first least
significant. Given the position, the digits are independent: the probability
of a code is the product of theirs, normalised over all b^F codes, so the
likelihood of the codes is exact; what is smaller is the family of models.
Source: MAGVIT-v2 (arXiv 2310.05737, section 3.1, token factorisation).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from varjax.params import sub_vocab


def split(
  codes: Int[Array, 'B T R'], vocab: int, factors: int
) -> Int[Array, 'B T F']:
  """Codes to digits, the F of a code next to each other.

  Args:
    codes: in [0, vocab).
    vocab: base ** factors.
    factors: digits of a code.
  """
  if factors == 1:
    return codes
  base = sub_vocab(vocab, factors)
  digits = [codes // base**place % base for place in range(factors)]
  return jnp.stack(digits, -1).reshape(*codes.shape[:-1], -1)


def join(
  digits: Int[Array, 'B T F'], vocab: int, factors: int
) -> Int[Array, 'B T R']:
  """The inverse of `split`."""
  if factors == 1:
    return digits
  base = sub_vocab(vocab, factors)
  grouped: jax.Array = digits.reshape(*digits.shape[:-1], -1, factors)
  places = base ** jnp.arange(factors, dtype=digits.dtype)
  return jnp.sum(grouped * places[None, None, None], -1, dtype=digits.dtype)

"""Whole rows of a stream in registers: shapes, loads and stores.

Triton's arrays have powers of two as sides: a row of another width is
padded with zeros, which are never stored.
"""

from __future__ import annotations

import dataclasses

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

WIDEST = 4096  # Wider rows would spill out of registers.
_NUMBERS = 2048  # Of an array that a program holds, in as many rows.


@dataclasses.dataclass(frozen=True)
class Rows:
  """The rows that a program holds at a time.

  Attributes:
    count: how many, a power of two.
    width, columns: D, and that rounded up to a power of two.
    warps: of 32 threads each, that share them.
  """

  count: int
  width: int
  columns: int
  warps: int

  @classmethod
  def choose(cls, width: int) -> Rows:
    """As many as fit into registers together, chosen by the assembler."""
    columns = max(16, 1 << (width - 1).bit_length())
    count = min(max(1, _NUMBERS // columns), 16)
    return cls(count, width, columns, 4 if columns <= _NUMBERS else 16)

  @property
  def real(self) -> jax.Array:
    """Which columns are no padding, bool [columns]."""
    return jnp.arange(self.columns) < self.width

  def load(self, ref, begin) -> jax.Array:
    """float32 [count, columns] of [L, D] from row `begin`; zeros beyond."""
    at, inside = self._place(ref, begin)
    return triton.load(at, mask=inside, other=0.0).astype(jnp.float32)

  def store(self, ref, begin, value: jax.Array) -> None:
    """Stores [count, columns] to [L, D] from row `begin`."""
    at, inside = self._place(ref, begin)
    triton.store(at, value.astype(ref.dtype), mask=inside)

  def load_vector(self, ref) -> jax.Array:
    """float32 [1, columns] of [D]."""
    at = ref.at[pl.ds(0, self.columns)]
    found = triton.load(at, mask=self.real, other=0.0)
    return found.astype(jnp.float32)[None]

  def store_vector(self, ref, value: jax.Array) -> None:
    """Stores [columns] to [D]."""
    at = ref.at[pl.ds(0, self.columns)]
    triton.store(at, value.astype(ref.dtype), mask=self.real)

  def load_numbers(self, ref, begin) -> jax.Array:
    """[count, 1] of [L] from place `begin`; zeros beyond."""
    inside = begin + jnp.arange(self.count) < ref.shape[0]
    at = ref.at[pl.ds(begin, self.count)]
    return triton.load(at, mask=inside, other=0.0)[:, None]

  def store_numbers(self, ref, begin, value: jax.Array) -> None:
    """Stores [count, 1] to [L] from place `begin`."""
    inside = begin + jnp.arange(self.count) < ref.shape[0]
    at = ref.at[pl.ds(begin, self.count)]
    triton.store(at, value[:, 0], mask=inside)

  def mean(self, value: jax.Array) -> jax.Array:
    """[count, 1] of [count, columns], of which the padding is zero."""
    return jnp.sum(value, axis=1, keepdims=True) * (1 / self.width)

  def _place(self, ref, begin):
    inside = (begin + jnp.arange(self.count) < ref.shape[0])[:, None]
    if self.columns != self.width:
      inside &= self.real[None]
    inside = jnp.broadcast_to(inside, (self.count, self.columns))
    return ref.at[pl.ds(begin, self.count), pl.ds(0, self.columns)], inside

"""What the quantizers of one grid have in common, with a codebook or without.

A grid of features is a list of rows to them: they differ in how a row
becomes codes and codes a row.
"""

from __future__ import annotations

import abc
from typing import Self

import einops
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from varjax.spec import TokenizerSpec
from varjax.tokenizers import codebook as codebooks
from varjax.types import Codes, PyTree


@flax.struct.dataclass
class GridQuantizer(abc.ABC):
  """Base of a `tokenizers.base.Quantizer` without weights."""

  spec: TokenizerSpec = flax.struct.field(pytree_node=False)

  @classmethod
  def init(cls, spec: TokenizerSpec, rng: jax.Array) -> PyTree:
    """No weights."""
    del spec, rng
    return {}

  @classmethod
  def bind(cls, spec: TokenizerSpec, weights: PyTree) -> Self:
    """The quantizer of a spec."""
    del weights
    return cls(spec)

  @abc.abstractmethod
  def embed(self, codes: Int[Array, 'B T R']) -> Float[Array, 'B T C']:
    """Codes of any positions as the decoder reads them."""

  def partial_sums(self, codes: Codes) -> list[Float[Array, 'B P P C']]:
    """One entry: one scale, whose codes are no refinements of each other."""
    return [self.decode(codes)]

  def decode(self, codes: Codes) -> Float[Array, 'B P P C']:
    """Codes [B, L, R] to the features that the decoder reads."""
    return to_grid(self.embed(codes), self.spec.grids[-1])


@flax.struct.dataclass
class CodebookQuantizer(GridQuantizer):
  """Base of one whose codes are rows of a learned table."""

  codebook: jax.Array  # [V, C]

  @classmethod
  def init(cls, spec: TokenizerSpec, rng: jax.Array) -> PyTree:
    """A fresh codebook, shared by all codes of a position."""
    return {'embedding': codebooks.init(spec, rng)}

  @classmethod
  def bind(cls, spec: TokenizerSpec, weights: PyTree) -> Self:
    """The quantizer of a spec with these weights."""
    return cls(spec, weights['embedding'])


def to_rows(f: Float[Array, 'B H W C']) -> Float[Array, 'B L C']:
  """A grid of features as float32 rows."""
  return einops.rearrange(f.astype(jnp.float32), 'b h w c -> b (h w) c')


def to_grid(
  rows: Float[Array, 'B L C'], grid: tuple[int, int]
) -> Float[Array, 'B H W C']:
  """The inverse of `to_rows`."""
  return einops.rearrange(rows, 'b (h w) c -> b h w c', h=grid[0], w=grid[1])

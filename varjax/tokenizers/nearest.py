"""Nearest codebook entry, by one matrix product.

The squared distance |z|^2 - 2 z e + |e|^2 is smallest where z e - |e|^2 / 2
is largest, so neither a difference tensor nor |z|^2 is ever formed. Scores
of many rows are formed block by block.
"""

from __future__ import annotations

from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Scores of one block, in elements: what stays in the cache of a CPU, and a
# gigabyte of float32 elsewhere (a large vocabulary, many images).
_CPU_BLOCK = 2**19
_BLOCK = 2**28
_EPS = 1e-12  # of the norm in the cosine variant, as in PyTorch


@jax.named_scope('quantizer/nearest')
def nearest(
  z: Float[Array, 'B T C'], codebook: Float[Array, 'V C'], znorm: bool = False
) -> Int[Array, 'B T']:
  """Index of the nearest code; the first of equals.

  Args:
    z: vectors, float32.
    codebook: float32.
    znorm: nearest by cosine instead of Euclidean distance.
  """
  if znorm:
    z, entries = unit(z), unit(codebook)
    offset = jnp.zeros((len(codebook), 1), codebook.dtype)
  else:
    entries = codebook
    offset = -0.5 * jnp.sum(jnp.square(codebook), -1, keepdims=True)
  # The offset rides along as one more channel: scores come out of the
  # product finished, in one pass over the largest array.
  entries = jnp.concatenate([entries, offset], -1)
  rows = einops.rearrange(z, 'b t c -> (b t) c')
  rows = jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], -1)
  codes = jax.lax.platform_dependent(
    rows, entries, cpu=_search_on_cpu, default=_search
  )
  return einops.rearrange(codes, '(b t) -> b t', b=z.shape[0])


def unit(x: Float[Array, '*B C']) -> Float[Array, '*B C']:
  """Vectors of unit length; a zero vector stays zero, with a finite slope."""
  squares = jnp.sum(jnp.square(x), -1, keepdims=True)
  return x / jnp.sqrt(jnp.maximum(squares, _EPS**2))


def _search(
  rows: jax.Array, entries: jax.Array, elements: int = _BLOCK
) -> jax.Array:
  """The best entry of each row, without all scores at once."""

  def search(block: jax.Array) -> jax.Array:
    return jnp.argmax(_scores(block, entries), -1).astype(jnp.int32)

  return _in_blocks(search, rows, max(elements // len(entries), 1))


def _search_on_cpu(
  rows: jax.Array, entries: jax.Array, elements: int = _CPU_BLOCK
) -> jax.Array:
  """`_search` for CPUs, where a variadic reduction is not vectorised."""
  vocab = len(entries)

  def search(block: jax.Array) -> jax.Array:
    scores = _scores(block, entries)
    best = jnp.max(scores, -1, keepdims=True)
    index = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    first = jnp.min(jnp.where(scores == best, index, vocab), -1)
    return jnp.minimum(first, vocab - 1)  # NaN equals nothing

  return _in_blocks(search, rows, max(elements // vocab, 1))


def _scores(rows: jax.Array, entries: jax.Array) -> jax.Array:
  return jnp.matmul(rows, entries.T, precision=jax.lax.Precision.HIGHEST)


def _in_blocks(
  search: Callable[[jax.Array], jax.Array], rows: jax.Array, size: int
) -> jax.Array:
  """`search` of `size` rows at a time, one block after the other."""
  count = len(rows)
  if count <= size:
    return search(rows)
  blocks = -(-count // size)
  padded = jnp.pad(rows, ((0, blocks * size - count), (0, 0)))
  found = jax.lax.map(search, padded.reshape(blocks, size, -1))
  return found.reshape(-1)[:count]

"""The Tokenizer seam: what the symbols are.

A tokenizer is a frozen dataclass without weights; the weights are an
argument of every method. `quantizer` is the small part of them that an
order needs to turn codes into features.
"""

from __future__ import annotations

from typing import Protocol

import jax

from varjax.spec import TokenizerSpec
from varjax.types import Codes, CodeSpec, PyTree


class Tokenizer(Protocol):
  """Images [B, H, W, 3] in [-1, 1] to codes [B, L, R] and back."""

  spec: TokenizerSpec
  code_spec: CodeSpec

  def init(self, rng: jax.Array, resolution: int) -> PyTree:
    """Weights with logical axis names (boxed)."""
    ...

  def encode(self, params: PyTree, images: jax.Array) -> Codes:
    """Images in [-1, 1] to int32 codes, all scales concatenated."""
    ...

  def decode(self, params: PyTree, codes: Codes) -> jax.Array:
    """Codes to images, clipped to [-1, 1]."""
    ...

  def decode_features(self, params: PyTree, features: jax.Array) -> jax.Array:
    """Summed code features [B, P, P, C] to images, clipped to [-1, 1]."""
    ...

  def quantizer(self, params: PyTree) -> PyTree:
    """The weights that turn codes into features; passed to an order."""
    ...

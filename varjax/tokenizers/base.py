"""The Tokenizer seam: what the symbols are.

A tokenizer is a frozen dataclass without weights; the weights are an
argument of every method. Its quantizer is the small part that turns features
into codes and back, which an order and a sampler need too: a pytree of those
weights, whose settings are static.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import flax.struct
import jax
import jax.numpy as jnp

from varjax.spec import TokenizerSpec
from varjax.types import Codes, CodeSpec, PyTree


@flax.struct.dataclass
class Quantized:
  """What the training forward of a quantizer returns."""

  features: jax.Array  # [B, P, P, C], gradient straight through to the input
  loss: jax.Array  # scalar
  codes: jax.Array  # [B, L, R] int32
  # [B, L, R, C], the vectors that were looked up; None without a codebook.
  searched: jax.Array | None = None


class Quantizer(Protocol):
  """Features [B, P, P, C] to codes [B, L, R] and back, in float32."""

  @classmethod
  def init(cls, spec: TokenizerSpec, rng: jax.Array) -> PyTree:
    """Fresh weights with logical axis names (boxed); {} where there are none.

    A codebook is called 'embedding' [V, C]; kernels may be left at zero,
    `convnet.draw_kernels` draws them.
    """
    ...

  @classmethod
  def bind(cls, spec: TokenizerSpec, weights: PyTree) -> Self:
    """The quantizer of a spec with these weights (plain)."""
    ...

  def quantize(self, f: jax.Array) -> Quantized:
    """The training forward: loss, and features with a gradient."""
    ...

  def encode(self, f: jax.Array) -> Codes:
    """Features to codes, all scales concatenated."""
    ...

  def embed(self, codes: jax.Array) -> jax.Array:
    """Codes [B, T, R] of any positions as features [B, T, C].

    A quantizer with several codes per position also takes the first few.
    """
    ...

  def partial_sums(self, codes: Codes) -> list[jax.Array]:
    """Decoder features after each scale, or after each code of a position."""
    ...

  def decode(self, codes: Codes) -> jax.Array:
    """Codes to the features that the decoder reads, [B, P, P, C]."""
    ...


class Tokenizer(Protocol):
  """Images [B, H, W, 3] in [-1, 1] to codes [B, L, R] and back."""

  spec: TokenizerSpec

  @property
  def code_spec(self) -> CodeSpec:
    """Grids and alphabet of the codes."""
    ...

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

  def quantizer(self, params: PyTree) -> Any:
    """The weights that turn codes into features; passed to an order."""
    ...


def encode_bytes(
  tokenizer: Tokenizer, params: PyTree, images: jax.Array
) -> Codes:
  """Images [B, H, W, 3] of 8 bits to codes: what `varjax encode` compiles."""
  return tokenizer.encode(params, images.astype(jnp.float32) / 127.5 - 1)


def code_spec(spec: TokenizerSpec) -> CodeSpec:
  """What a tokenizer of this spec emits, whatever its kind."""
  return CodeSpec(
    spec.grids, spec.vocab, spec.code_dim, spec.codes_per_position
  )

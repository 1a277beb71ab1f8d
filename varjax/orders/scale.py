"""Next-scale order: all codes of a grid at once, coarse grids first.

The input of a scale is the sum of everything generated so far, reduced to
that scale's grid; the first scale has start symbols instead (VAR, arXiv
2404.02905, section 3.1). The likelihood factorises over scales and, within
a scale, over positions: the loss is exact.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from varjax.spec import TokenizerSpec
from varjax.tokenizers import msvq
from varjax.tokenizers.base import code_spec
from varjax.types import Codes, CodeSpec, Example, Layout


@dataclasses.dataclass(frozen=True)
class ScaleOrder:
  """The order of VAR; see `orders.base.Order` for the methods.

  Attributes:
    spec: the tokenizer whose scales are ordered.
  """

  spec: TokenizerSpec
  loss_kind = 'exact'

  @functools.cached_property
  def code_spec(self) -> CodeSpec:
    """Grids and alphabet."""
    return code_spec(self.spec)

  @functools.cached_property
  def layout(self) -> Layout:
    """Static shapes; each scale is a block, the first is start symbols."""
    codes = self.code_spec
    return Layout(
      positions=codes.positions,
      start=codes.block_sizes[0],
      block_sizes=codes.block_sizes,
      input_kind='features',
      input_dim=codes.code_dim,
      targets_per_position=1,
      vocab=codes.vocab,
      num_positions=codes.positions,
      num_steps=len(codes.grids),
    )

  def example(self, quantizer: msvq.Quantizer, codes: Codes) -> Example:
    """Codes [B, L, 1] with the inputs of teacher forcing [B, L-S, C]."""
    layout = self.layout
    steps = np.repeat(
      np.arange(layout.num_steps, dtype=np.int32), layout.block_sizes
    )
    return Example(
      inputs=msvq.teacher_inputs(quantizer, codes),
      targets=codes,
      weights=jnp.ones(codes.shape[:2], jnp.float32),
      positions=jnp.arange(layout.positions, dtype=jnp.int32)[None],
      steps=jnp.asarray(steps)[None],
    )

  def start(self, batch: int) -> Float[Array, 'B P P C']:
    """Summed features before the first scale: zeros."""
    shape = (batch, *self.code_spec.finest, self.spec.code_dim)
    return jnp.zeros(shape, jnp.float32)

  def embed(
    self, quantizer: msvq.Quantizer, codes: Int[Array, 'B T R']
  ) -> Float[Array, 'B T C']:
    """Codes as raw codebook rows."""
    return msvq.embed(quantizer, codes)

  def advance(
    self,
    quantizer: msvq.Quantizer,
    state: Float[Array, 'B P P C'],
    features: Float[Array, 'B T C'],
    step: int,
  ) -> tuple[jax.Array, jax.Array | None]:
    """Adds one scale; returns the sum and the inputs of the next scale."""
    return msvq.advance(quantizer, state, features, step)

  def features(self, state: Float[Array, 'B P P C']) -> jax.Array:
    """The finished sum is what the decoder reads."""
    return state

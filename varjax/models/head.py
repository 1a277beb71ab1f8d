"""The output side: a normalisation before the classifier over codes.

Under AdaLN the chunk order of the modulation is scale, shift (official
`AdaLNBeforeHead`); it reads the class embedding also where the blocks share
their AdaLN.
Logits are float32.
"""

from __future__ import annotations

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import dense, norm
from varjax.models.adaln import init_std, split_input
from varjax.params import sub_vocab
from varjax.spec import ModelSpec
from varjax.types import Layout


class Head(nn.Module):
  """Hidden states [B, L, D] to logits [B, L, R, V].

  With `head_factors` F, R and V are those of sub-tokens, see `factors`.
  """

  spec: ModelSpec
  layout: Layout

  def setup(self) -> None:
    """Declares the modulation and the classifier."""
    spec, std = self.spec, init_std(self.spec)
    if spec.norm == 'adaln':
      self.adaln = dense.dense(
        2 * spec.width, std * spec.init_adaln, ('adaln_in', 'adaln')
      )
    self.norm = norm.Norm(spec)
    self.logits = _Classifier(
      math.prod(self._shape),
      std * spec.init_head,
      spec.compute_dtype,
      spec.bias,
    )

  def modulation(self, condition: Float[Array, 'B D']) -> jax.Array | None:
    """Condition to (scale, shift) [B, 2, D], float32; None without AdaLN."""
    if self.spec.norm != 'adaln':
      return None
    flat = self.adaln(split_input(norm.silu(condition)))
    flat = nn.with_logical_constraint(flat, ('batch', None))
    return flat.reshape(-1, 2, self.spec.width)

  def __call__(
    self, x: Float[Array, 'B L D'], modulation: Float[Array, 'B 2 D'] | None
  ) -> Float[Array, 'B L R V']:
    """Normalises, modulates and classifies."""
    if modulation is None:
      x = self.norm(x)
    else:
      x = self.norm(x, modulation[:, 0], modulation[:, 1])
    logits = self.logits(x)
    return logits.reshape(*logits.shape[:2], *self._shape)

  @property
  def _shape(self) -> tuple[int, int]:
    """Codes of a position, or the sub-tokens of all of them; values."""
    factors, vocab = self.spec.head_factors, self.layout.vocab
    values = sub_vocab(vocab, factors)
    return self.layout.targets_per_position * factors, values


class _Classifier(nn.Module):
  """A linear layer whose output stays float32 under bfloat16 compute."""

  features: int
  std: float
  dtype: str
  use_bias: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L F']:
    """Returns x @ kernel + bias."""
    shape = (x.shape[-1], self.features)
    init = dense.normal(self.std, ('embed', 'vocab'))
    kernel = self.param('kernel', init, shape)
    if jnp.dtype(self.dtype) == jnp.float32:
      logits = x @ kernel
    else:
      logits = dense.matmul_float32(x, kernel, self.dtype)
    if not self.use_bias:
      return logits
    bias = self.param('bias', dense.zeros(('vocab',)), (self.features,))
    return logits + bias[None, None]

"""The output side: a normalisation before the classifier over codes.

Under AdaLN the chunk order of the modulation is scale, shift (official
`AdaLNBeforeHead`); it reads the class embedding also where the blocks share
their AdaLN.
Where an order predicts the codes of a position one after the other, a depth
transformer comes in between, and one classifier serves all codes.
Logits are float32.
"""

from __future__ import annotations

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import dense, norm, product
from varjax.models.adaln import init_std, split_input
from varjax.models.block import KeyValue
from varjax.models.depth import DepthTransformer
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
    if self.layout.depth_dim:
      self.depth = DepthTransformer(spec, self.layout)
    self.norm = norm.Norm(spec)
    self.logits = _Classifier(
      math.prod(self._shape) // self.layout.rounds,
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
    self,
    x: Float[Array, 'B L D'],
    modulation: Float[Array, 'B 2 D'] | None,
    sums: Float[Array, 'B L Rm1 C'] | None = None,
  ) -> Float[Array, 'B L R V']:
    """Normalises, modulates and classifies; `sums` are `Example.sums`."""
    rows = x.shape[:2]
    if self.layout.depth_dim:
      x = self.depth(x, sums)
    return self._classify(x, modulation).reshape(*rows, *self._shape)

  def step(
    self,
    x: Float[Array, 'B L D'],
    modulation: Float[Array, 'B 2 D'] | None,
    total: Float[Array, 'B L C'] | None = None,
    cache: KeyValue | None = None,
  ) -> tuple[Float[Array, 'B L R V'], KeyValue | None]:
    """Logits of the codes that can be drawn next at each position.

    Args:
      x, modulation: as in the call.
      total: sum of the code vectors drawn so far; None before the first.
      cache: what the call for the code before returned.

    Returns:
      Logits of all codes of a position; of one where the layout has more
      than one round. And what the next round takes as `cache`.
    """
    rows = x.shape[:2]
    if self.layout.depth_dim:
      x, cache = self.depth.step(x, total, cache)
    count, values = self._shape
    shape = count // self.layout.rounds, values
    return self._classify(x, modulation).reshape(*rows, *shape), cache

  def _classify(
    self, x: Float[Array, 'B L D'], modulation: Float[Array, 'B 2 D'] | None
  ) -> Float[Array, 'B L F']:
    if modulation is None:
      return self.logits(self.norm(x))
    return self.logits(self.norm(x, modulation[:, 0], modulation[:, 1]))

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
    if product.stored(kernel):
      logits = product.product(x.astype(self.dtype), kernel, 'float32')
    elif jnp.dtype(self.dtype) == jnp.float32:
      logits = x @ kernel.astype(jnp.float32)
    else:
      logits = dense.matmul_float32(x, kernel, self.dtype)
    if not self.use_bias:
      return logits
    bias = self.param('bias', dense.zeros(('vocab',)), (self.features,))
    return logits + bias[None, None]

"""The depth transformer: the codes of one position, one after the other.

RQ-Transformer (arXiv 2203.01941, section 3.2.2, equations 6 to 8). Of the R
codes of a position the first is predicted from the hidden state h of the
large transformer there, code d + 1 also from the sums of the first 1 ... d
code vectors. Positions do not see each other here: what they know of each
other is in h, and so is the class. Blocks are those of the large
transformer, with a plain LayerNorm where those have AdaLN.

  word/    kernel [C, D], bias: sums of code vectors
  pos      [R, D]
  blocks/  as in `transformer`
"""

from __future__ import annotations

import functools
import math

from flax import linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from varjax.models import dense, in_place
from varjax.models.adaln import init_std
from varjax.models.block import KeyValue
from varjax.models.cache import Cache
from varjax.models.stack import stacked
from varjax.params import depth_spec
from varjax.spec import ModelSpec
from varjax.types import Layout


class DepthTransformer(nn.Module):
  """Hidden states of positions to hidden states of their codes."""

  spec: ModelSpec
  layout: Layout

  def setup(self) -> None:
    """Declares the projection, the table and the blocks."""
    spec = self.spec
    self.word = dense.dense(spec.width, init_std(spec), (None, 'embed'))
    self.pos = self.param(
      'pos',
      dense.normal(math.sqrt(1 / (3 * spec.width)), (None, 'embed')),
      (self.layout.targets_per_position, spec.width),
    )
    self.blocks = stacked(depth_spec(spec))(depth_spec(spec))

  def __call__(
    self, hidden: Float[Array, 'B L D'], sums: Float[Array, 'B L Rm1 C']
  ) -> Float[Array, 'B LR D']:
    """All codes at once, given them all (teacher forcing).

    Args:
      hidden: of the large transformer.
      sums: of the first 1 ... R - 1 code vectors of each position.

    Returns:
      Hidden states that predict the codes, those of a position next to
      each other.
    """
    words = self.word(sums.astype(jnp.float32))
    rows = jnp.concatenate([hidden[:, :, None], words], axis=2)
    return self._run(rows, None)[0]

  def step(
    self,
    hidden: Float[Array, 'B L D'],
    total: Float[Array, 'B L C'] | None,
    cache: KeyValue | None,
  ) -> tuple[Float[Array, 'B L D'], KeyValue]:
    """One code of each position, given those before it.

    Args:
      hidden: as in the call; read for the first code alone.
      total: sum of the code vectors so far; None before the first.
      cache: keys and values of the codes before; None before the first.

    Returns:
      Hidden states that predict the code, and the cache with this one.
    """
    row = hidden if total is None else self.word(total.astype(jnp.float32))
    out, new = self._run(row[:, :, None], cache, step=True)
    if cache is None:
      return out, new
    joined = [jnp.concatenate(pair, 2) for pair in zip(cache, new, strict=True)]
    return out, (joined[0], joined[1])

  def _run(
    self,
    rows: Float[Array, 'B L R D'],
    cache: KeyValue | None,
    step: bool = False,
  ) -> tuple[Float[Array, 'B LR D'], KeyValue]:
    batch, length, count, width = rows.shape
    first = 0 if cache is None else cache[0].shape[2]
    x = rows + self.pos[None, None, first : first + count]
    x = x.reshape(batch * length, count, width).astype(self.spec.compute_dtype)
    rates = np.zeros(self.spec.depth_layers, np.float32)
    # One row against a cache sees all of it; rows together are causal.
    causal = (1,) * count if cache is None else None
    prefix = None if cache is None else Cache(*cache)
    run = self.blocks
    if step and in_place.serves(x):
      weights = self.variables['params']['blocks']
      run = functools.partial(in_place.run, depth_spec(self.spec), weights)
    x, new = run(x, None, rates, prefix, None, causal, False, True, None, None)
    return x.reshape(batch, length * count, width), new

"""AdaLN: six modulation vectors per block and image, from the class.

All blocks are computed in one product before the first block runs, so that
a sampler does it once and not once per step (VAR section 3.2; DiT). Chunk
order is the official one: gamma1, gamma2, scale1, scale2, shift1, shift2.

On a mesh the products are split along the condition, which is the input:
the chunks of a split output would have to be moved before they are used.
"""

from __future__ import annotations

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import dense, norm, product
from varjax.spec import ModelSpec

CHUNKS = 6
_GAMMAS = 2  # The first chunks; they start smaller (`init_gamma`).


class BlockModulation(nn.Module):
  """Condition [B, D] to modulation [depth, B, 6, D] of every block.

  Own AdaLN: a kernel and bias per block. Shared AdaLN: one kernel and bias,
  and a table `gss` per block that is added to its output.
  """

  spec: ModelSpec

  @nn.compact
  def __call__(
    self, condition: Float[Array, 'B D']
  ) -> Float[Array, 'depth B 6 D']:
    """Computes the modulation of all blocks, in the compute type."""
    spec = self.spec
    depth, width, dtype = spec.depth, spec.width, spec.compute_dtype
    features = CHUNKS * width
    hidden = split_input(norm.silu(condition).astype(dtype))
    if spec.shared_adaln:
      # The shared projection keeps its plain init; only the table is scaled.
      shared_init = dense.normal(init_std(spec), ('adaln_in', 'adaln'))
      kernel = self.param('kernel', shared_init, (width, features))
      bias = self.param('bias', dense.zeros(('adaln',)), (features,))
      table = self.param(
        'gss',
        nn.with_logical_partitioning(
          _scaled(spec, 1 / math.sqrt(width), axis=1),
          ('layers', None, 'embed'),
        ),
        (depth, CHUNKS, width),
      )
      if product.stored(kernel):
        shared = product.product(hidden, kernel, dtype)
      else:
        shared = hidden @ _gathered(
          kernel.astype(dtype), ('condition', 'adaln')
        )
      shared = shared + bias.astype(dtype)[None]
      shared = shared.reshape(-1, CHUNKS, width)
      return _whole(shared[None] + table.astype(dtype)[:, None])
    own_init = nn.with_logical_partitioning(
      _scaled(spec, init_std(spec), axis=2), ('layers', 'adaln_in', 'adaln')
    )
    kernel = self.param('kernel', own_init, (depth, width, features))
    bias = self.param(
      'bias', dense.zeros(('layers', 'adaln')), (depth, features)
    )
    if product.stored(kernel):
      own = product.of_layers(hidden, kernel, dtype).swapaxes(0, 1)
    else:
      axes = ('layers', 'condition', 'adaln')
      kernel = _gathered(kernel.astype(dtype), axes)
      # One product a layer: of a single one XLA writes the images last, and
      # turns the hidden states of all blocks to match.
      own = jnp.einsum(
        'lbd,ldf->lbf', jnp.broadcast_to(hidden, (depth, *hidden.shape)), kernel
      )
    own = own + bias.astype(dtype)[:, None]
    return _whole(own.reshape(depth, -1, CHUNKS, width))


def split_input(hidden: Float[Array, 'B D']) -> Float[Array, 'B D']:
  """The condition, cut over the tensor axis as the kernels' inputs are."""
  return nn.with_logical_constraint(hidden, ('batch', 'condition'))


def _gathered(kernel: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """A kernel as the product needs it: over the fsdp axis it is whole."""
  return nn.with_logical_constraint(kernel, axes)


def _whole(modulation: jax.Array) -> jax.Array:
  return nn.with_logical_constraint(modulation, ('layers', 'batch', None, None))


def init_std(spec: ModelSpec) -> float:
  """Standard deviation of the plain weights (VAR `init_weights`)."""
  if spec.init_std < 0:
    return math.sqrt(1 / (3 * spec.width))
  return spec.init_std


def _scaled(spec: ModelSpec, std: float, axis: int):
  """N(0, std), the gammas times `init_gamma`, the rest times `init_adaln`.

  `axis` is the one that holds the chunks, split or flat.
  """

  def init(key, shape, dtype=jnp.float32):
    gammas = shape[axis] * _GAMMAS // CHUNKS
    index = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    factor = jnp.where(index < gammas, spec.init_gamma, spec.init_adaln)
    return jax.random.normal(key, shape, dtype) * (std * factor)

  return init

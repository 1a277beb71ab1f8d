"""Multi-scale residual quantiser: features to codes of every scale and back.

A feature map is explained coarse to fine: each scale quantises what is left,
and its codes, enlarged and passed through a small convolution phi, are
subtracted from the rest (VAR, arXiv 2404.02905, algorithms 1 and 2). All of
it is pure functions on `Quantizer`, always in float32, so that a tokenizer,
an order and a sampler share one definition. Codes are int32 [B, L, 1].
"""

from __future__ import annotations

from typing import Self

import einops
from flax import linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from varjax.spec import TokenizerSpec
from varjax.tokenizers import codebook as codebooks
from varjax.tokenizers import nearest
from varjax.tokenizers.base import Quantized
from varjax.tokenizers.resize import resize
from varjax.types import Codes, PyTree

# Below this, phi is the identity (official `quant_resi` threshold).
_NO_PHI = 1e-6


@flax.struct.dataclass
class Quantizer:
  """A `tokenizers.base.Quantizer`; codes are int32 [B, L, 1].

  n is the number of phi modules: 0 without phi (ratio 0).
  """

  codebook: jax.Array  # [V, C]
  phi_kernel: jax.Array  # [n, 3, 3, C, C], input channels before output
  phi_bias: jax.Array  # [n, C]
  grids: tuple[tuple[int, int], ...] = flax.struct.field(pytree_node=False)
  phi_count: int = flax.struct.field(pytree_node=False, default=4)
  phi_ratio: float = flax.struct.field(pytree_node=False, default=0.5)
  znorm: bool = flax.struct.field(pytree_node=False, default=False)
  commitment: float = flax.struct.field(pytree_node=False, default=0.25)

  @classmethod
  def init(cls, spec: TokenizerSpec, rng: jax.Array) -> PyTree:
    """A fresh codebook, and phi kernels left at zero."""
    weights = {'embedding': codebooks.init(spec, rng)}
    count = phi_modules(len(spec.scales), spec.phi_count, spec.phi_ratio)
    if count:
      shape = (count, 3, 3, spec.code_dim, spec.code_dim)
      weights['phi'] = {
        'kernel': nn.LogicallyPartitioned(jnp.zeros(shape), (None,) * 5),
        'bias': nn.LogicallyPartitioned(
          jnp.zeros((count, spec.code_dim)), (None, None)
        ),
      }
    return weights

  @classmethod
  def bind(cls, spec: TokenizerSpec, weights: PyTree) -> Self:
    """The quantizer of a spec with these weights."""
    dim = spec.code_dim
    none = {
      'kernel': jnp.zeros((0, 3, 3, dim, dim)),
      'bias': jnp.zeros((0, dim)),
    }
    phi = weights.get('phi', none)
    return cls(
      codebook=weights['embedding'],
      phi_kernel=phi['kernel'],
      phi_bias=phi['bias'],
      grids=spec.grids,
      phi_count=spec.phi_count,
      phi_ratio=spec.phi_ratio,
      znorm=spec.znorm,
      commitment=spec.commitment,
    )

  def quantize(self, f: Float[Array, 'B P P C']) -> Quantized:
    """See `quantize`."""
    return quantize(self, f, self.commitment)

  def encode(self, f: Float[Array, 'B P P C']) -> Codes:
    """See `encode`."""
    return encode(self, f)

  def embed(self, codes: Int[Array, 'B T 1']) -> Float[Array, 'B T C']:
    """See `embed`."""
    return embed(self, codes)

  def partial_sums(self, codes: Codes) -> list[Float[Array, 'B P P C']]:
    """See `partial_sums`."""
    return partial_sums(self, codes)

  def decode(self, codes: Codes) -> Float[Array, 'B P P C']:
    """See `sum_codes`."""
    return sum_codes(self, codes)


def phi_modules(scales: int, count: int, ratio: float) -> int:
  """Number of phi modules: one per scale when `count` is 0.

  None at all when the ratio makes phi the identity.
  """
  return (count or scales) if abs(ratio) > _NO_PHI else 0


def phi_index(scales: int, count: int) -> tuple[int, ...]:
  """Which phi module serves each scale (official `PhiPartiallyShared`).

  Mathematical ties are decided by float64 rounding, so the expressions are
  the official ones. A single scale, which upstream cannot express, uses
  module 0.

  Args:
    scales: K.
    count: phi modules shared over the scales; 0 is one per scale.
  """
  modules = count or scales
  if scales == 1 or modules == 1:
    return (0,) * scales
  margin = 1 / 3 / modules if modules == 4 else 1 / 2 / modules
  ticks = np.linspace(margin, 1 - margin, modules)
  return tuple(
    int(np.argmin(np.abs(ticks - k / (scales - 1)))) for k in range(scales)
  )


@jax.named_scope('phi')
def phi(
  quantizer: Quantizer, h: Float[Array, 'B H W C'], step: int
) -> Float[Array, 'B H W C']:
  """The residual convolution of scale `step`: (1 - r) h + r conv(h)."""
  ratio = quantizer.phi_ratio
  if not quantizer.phi_kernel.shape[0]:
    return h
  module = phi_index(len(quantizer.grids), quantizer.phi_count)[step]
  convolved = jax.lax.conv_general_dilated(
    h,
    quantizer.phi_kernel[module],
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=jax.lax.Precision.HIGHEST,
  )
  convolved += quantizer.phi_bias[module][None, None, None]
  return (1 - ratio) * h + ratio * convolved


@jax.named_scope('quantizer')
def embed(quantizer: Quantizer, codes: Codes) -> Float[Array, 'B T C']:
  """Codes [B, T, 1] of any positions as raw codebook rows."""
  return quantizer.codebook[codes[..., 0]]


@jax.named_scope('quantizer')
def contribution(
  quantizer: Quantizer, features: Float[Array, 'B T C'], step: int
) -> Float[Array, 'B P P C']:
  """What embedded codes of one scale add to the summed features."""
  height, width = quantizer.grids[step]
  h = einops.rearrange(features, 'b (h w) c -> b h w c', h=height, w=width)
  return phi(quantizer, resize(h, quantizer.grids[-1], 'bicubic'), step)


def encode(quantizer: Quantizer, f: Float[Array, 'B P P C']) -> Codes:
  """Features to the codes of all scales, concatenated coarse to fine.

  Args:
    quantizer: its last grid must be the size of `f`.
    f: encoder features.

  Returns:
    int32 [B, L, 1].
  """
  return encode_with_searched(quantizer, f)[0]


@jax.named_scope('quantizer')
def encode_with_searched(
  quantizer: Quantizer, f: Float[Array, 'B P P C']
) -> tuple[Codes, Float[Array, 'B L C']]:
  """`encode`, and the vectors whose nearest codes were looked up."""
  rest = f.astype(jnp.float32)
  codes, searched = [], []
  for step, grid in enumerate(quantizer.grids):
    z = einops.rearrange(resize(rest, grid, 'area'), 'b h w c -> b (h w) c')
    code = nearest.nearest(z, quantizer.codebook, quantizer.znorm)[..., None]
    codes.append(code)
    searched.append(z)
    if step < len(quantizer.grids) - 1:
      rest -= contribution(quantizer, embed(quantizer, code), step)
  return jnp.concatenate(codes, 1), jnp.concatenate(searched, 1)


def split(quantizer: Quantizer, values: Array) -> list[Array]:
  """Cuts [B, L, ...] into one [B, T, ...] per scale."""
  ends = np.cumsum([h * w for h, w in quantizer.grids])[:-1]
  return jnp.split(values, ends, axis=1)


def partial_sums(
  quantizer: Quantizer, codes: Codes
) -> list[Float[Array, 'B P P C']]:
  """Summed features after each scale, all at full size."""
  sums, total = [], jnp.float32(0)
  for step, code in enumerate(split(quantizer, codes)):
    total += contribution(quantizer, embed(quantizer, code), step)
    sums.append(total)
  return sums


def sum_codes(quantizer: Quantizer, codes: Codes) -> Float[Array, 'B P P C']:
  """Codes of all scales to the features that the decoder reads."""
  return partial_sums(quantizer, codes)[-1]


def grow_sums(quantizer: Quantizer, codes: Codes) -> list[Array]:
  """Summed features that grow with the scales (experimental upstream).

  Returns:
    [B, height, width, C] of each scale: the sum so far is enlarged to the
    scale before the scale's own codes are added.
  """
  sums = []
  for step, code in enumerate(split(quantizer, codes)):
    height, width = quantizer.grids[step]
    h = einops.rearrange(
      embed(quantizer, code), 'b (h w) c -> b h w c', h=height, w=width
    )
    h = phi(quantizer, h, step)
    sums.append(resize(sums[-1], (height, width), 'bicubic') + h if sums else h)
  return sums


def start(quantizer: Quantizer, batch: int) -> Float[Array, 'B P P C']:
  """Summed features before the first scale: zeros."""
  channels = quantizer.codebook.shape[-1]
  return jnp.zeros((batch, *quantizer.grids[-1], channels), jnp.float32)


@jax.named_scope('quantizer')
def advance(
  quantizer: Quantizer,
  f_hat: Float[Array, 'B P P C'],
  features: Float[Array, 'B T C'],
  step: int,
) -> tuple[Float[Array, 'B P P C'], Float[Array, 'B Tnext C'] | None]:
  """Adds one scale and gives the transformer's input for the next.

  Args:
    quantizer: the weights.
    f_hat: summed features of the scales before `step`.
    features: embedded codes chosen at `step`.
    step: index of the scale.

  Returns:
    The new sum, and it reduced to the next grid (None after the last).
  """
  f_hat = f_hat + contribution(quantizer, features, step)
  if step == len(quantizer.grids) - 1:
    return f_hat, None
  reduced = resize(f_hat, quantizer.grids[step + 1], 'area')
  return f_hat, einops.rearrange(reduced, 'b h w c -> b (h w) c')


def teacher_inputs(
  quantizer: Quantizer, codes: Codes
) -> Float[Array, 'B LminusS C']:
  """The transformer's inputs for all scales but the first, concatenated.

  The input of a scale is the sum of all coarser ones reduced to its grid,
  exactly what `advance` yields one step at a time.
  """
  f_hat = start(quantizer, codes.shape[0])
  inputs = [f_hat[:, 0, :0]]  # [B, 0, C], so that one scale alone works
  for step, code in enumerate(split(quantizer, codes)[:-1]):
    f_hat, reduced = advance(quantizer, f_hat, embed(quantizer, code), step)
    inputs.append(reduced)
  return jnp.concatenate(inputs, 1)


@jax.named_scope('quantizer')
def quantize(
  quantizer: Quantizer, f: Float[Array, 'B P P C'], commitment: float
) -> Quantized:
  """Training forward (VAR equation 5, first two terms; official code).

  The loss is the mean over scales of mse(sum, sg(f)) + commitment *
  mse(sg(sum), f), where the sum after each scale is differentiable through
  the codebook and phi. The returned features equal the full sum, and their
  gradient goes to `f` alone.

  Args:
    quantizer: the weights.
    f: encoder features.
    commitment: beta.
  """
  f = f.astype(jnp.float32)
  fixed = jax.lax.stop_gradient(f)
  codes, searched = encode_with_searched(
    jax.lax.stop_gradient(quantizer), fixed
  )
  sums = partial_sums(quantizer, codes)
  loss = jnp.float32(0)
  for total in sums:
    to_features = jnp.mean(jnp.square(total - fixed))
    to_codes = jnp.mean(jnp.square(jax.lax.stop_gradient(total) - f))
    loss += to_features + commitment * to_codes
  features = jax.lax.stop_gradient(sums[-1] - f) + f
  return Quantized(features, loss / len(sums), codes, searched[:, :, None])

"""One transformer block, under AdaLN (official `AdaLNSelfAttn`) or plain.

x += gamma1 * attention(norm(x)); x += gamma2 * mlp(norm(x)), each branch
under stochastic depth per image; without AdaLN the gammas are 1. The block
is written to be scanned over depth: its call takes (carry, per-layer inputs,
broadcast inputs). SwiGLU: arXiv 2002.05202.
"""

from __future__ import annotations

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import (
  activation,
  attention,
  dense,
  fp8,
  maps,
  norm,
  placement,
  product,
  remat,
  rotary,
)
from varjax.models.adaln import init_std
from varjax.models.cache import Cache, attend_cached
from varjax.models.fused import modulate
from varjax.spec import ModelSpec

MAX_LOG_SCALE = math.log(100)  # Of the attention logits under l2_norm.
KeyValue = tuple[jax.Array, jax.Array]  # [B, T, N, A] each


class Block(nn.Module):
  """Self-attention and MLP of one layer."""

  spec: ModelSpec

  def setup(self) -> None:
    """Declares the two branches."""
    self.norm1 = norm.Norm(self.spec)
    self.norm2 = norm.Norm(self.spec)
    self.attention = SelfAttention(self.spec)
    self.mlp = Mlp(self.spec)

  def __call__(
    self,
    x: Float[Array, 'B L D'],
    modulation: Float[Array, 'B 6 D'] | None,
    drop_rate: Float[Array, ''],
    prefix: Cache | None,
    steps: jax.Array | None,
    blocks: attention.Blocks | None,
    train: bool,
    collect: bool,
    turns: rotary.Turns | None = None,
    visible: jax.Array | None = None,
  ) -> tuple[Float[Array, 'B L D'], KeyValue | None]:
    """Runs the layer.

    Args:
      x: hidden states, the scanned carry.
      modulation: chunks gamma1, gamma2, scale1, scale2, shift1, shift2;
        None without AdaLN.
      drop_rate: of stochastic depth in this layer.
      prefix: keys and values of earlier steps, which all of x may see.
      steps, blocks: the attention rule inside x, see `attention.attend`.
      train: whether stochastic depth is on.
      collect: whether to return the keys and values of x.
      turns: rotary angles of x, where positions are rotary.
      visible: positions of `prefix` that are filled, where that is traced;
        `prefix.filled` otherwise.
    """
    gamma1 = gamma2 = scale1 = scale2 = shift1 = shift2 = None
    if modulation is not None:
      gamma1, gamma2, scale1, scale2, shift1, shift2 = (
        modulation[:, i] for i in range(6)
      )
    drop = train and self.spec.drop_path > 0
    # Evaluation and sampling see the weights themselves.
    products = self.spec.products if train else 'compute'
    # In sampling and evaluation rows are few, or read once.
    fused = train and modulate.fits(self.spec, x)
    if fused and gamma1 is not None:
      x, rows = modulate.normed(x, scale1, shift1)
    else:
      rows = self.norm1(x, scale1, shift1)
    branch, key_value = self.attention(
      rows,
      prefix,
      steps,
      blocks,
      turns,
      visible,
      products,
    )
    if fused and gamma1 is not None:
      gate = gamma1.astype(jnp.float32)
      if drop:
        gate = gate * self._kept(x.shape[0], drop_rate)
      x, rows = modulate.summed(x, branch, gate, scale2, shift2)
    else:
      if gamma1 is not None:
        branch = branch * gamma1[:, None, :]
      x = x + (self._drop_path(branch, drop_rate) if drop else branch)
      rows = self.norm2(x, scale2, shift2)
    branch = self.mlp(rows, products)
    if gamma2 is not None:
      branch = branch * gamma2[:, None, :]
    x = x + (self._drop_path(branch, drop_rate) if drop else branch)
    x = nn.with_logical_constraint(x, ('batch', 'length', 'embed'))
    return x, key_value if collect else None

  def _drop_path(self, branch: jax.Array, rate: jax.Array) -> jax.Array:
    kept = self._kept(branch.shape[0], rate)[:, :, None]
    return branch * kept.astype(branch.dtype)

  def _kept(self, images: int, rate: jax.Array) -> Float[Array, 'B 1']:
    """What stochastic depth multiplies a branch by, 0 or 1 / (1 - rate)."""
    keep = 1.0 - rate
    kept = jax.random.bernoulli(self.make_rng('drop_path'), keep, (images, 1))
    return kept / keep


class SelfAttention(nn.Module):
  """Fused q, k, v projection; q and v may have a bias, k has none."""

  spec: ModelSpec

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B L D'],
    prefix: Cache | None,
    steps: jax.Array | None,
    blocks: attention.Blocks | None,
    turns: rotary.Turns | None = None,
    visible: jax.Array | None = None,
    products: str = 'compute',
  ) -> tuple[Float[Array, 'B L D'], KeyValue]:
    """Returns the attended x, and its finished keys with its values."""
    spec = self.spec
    width, heads, dtype = spec.width, spec.heads, spec.compute_dtype
    std = init_std(spec)
    qkv = _FusedProjection(3, width, 'heads', std, dtype, products, name='qkv')(
      x
    )
    if spec.bias:
      q_bias = self.param('q_bias', dense.zeros(('heads',)), (width,))
      v_bias = self.param('v_bias', dense.zeros(('heads',)), (width,))
      qkv = _add_biases(qkv, q_bias, v_bias)
    cosine = None
    qkv = nn.with_logical_constraint(
      qkv.reshape(*x.shape[:2], 3, heads, width // heads),
      ('batch', 'length', None, 'heads', None),
    )
    # Back ends that take the three in one drop these copies, and their names.
    q, k, v = (
      remat.name(qkv[:, :, part], label)
      for part, label in enumerate((remat.QUERY, remat.KEY, remat.VALUE))
    )
    if spec.l2_norm:
      init = nn.initializers.constant(math.log(4))
      log_scale = self.param(
        'scale', nn.with_logical_partitioning(init, (None,)), (heads,)
      )
      head_scale = _head_scale(log_scale)
      if prefix is None and turns is None:
        cosine = attention.Cosine(q, k, head_scale)
      q, k = self._normalise(q, k, head_scale)
      scale = 1.0
    else:
      scale = spec.softmax_scale / math.sqrt(width // heads)
    if turns is not None:
      q, k = rotary.turn(q, turns), rotary.turn(k, turns)
    if (
      self.is_mutable_collection(maps.COLLECTION) and not self.is_initializing()
    ):
      keys = k if prefix is None else prefix.joined(k, v)[0]
      weights = maps.weights(q, keys, scale, blocks, steps)
      self.sow(maps.COLLECTION, 'weights', weights)
    if prefix is None:
      out = attention.attend(
        q,
        k,
        v,
        scale=scale,
        blocks=blocks,
        steps=steps,
        backend=spec.attention,
        cosine=cosine,
        packed=qkv if turns is None else None,
      )
    else:
      out = attend_cached(q, k, v, prefix, scale, visible, spec.attention)
    proj = _HeadProjection(
      width,
      std / math.sqrt(2 * spec.depth),
      dtype,
      spec.bias,
      products,
      name='proj',
    )
    return remat.name(proj(out), remat.PROJECTION), (k, v)

  def _normalise(
    self, q: jax.Array, k: jax.Array, head_scale: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    scale = head_scale[None, None, :, None]
    return norm.unit(q, scale), norm.unit(k, jnp.ones((1, 1, 1, 1)))


@jax.custom_vjp
def _add_biases(
  qkv: Float[Array, 'B L 3 F'],
  q_bias: Float[Array, 'F'],
  v_bias: Float[Array, 'F'],
) -> Float[Array, 'B L 3 F']:
  """Adds the biases of queries and values to what one product leaves."""
  return _add_biases_fwd(qkv, q_bias, v_bias)[0]


def _add_biases_fwd(qkv, q_bias, v_bias):
  biases = jnp.stack([q_bias, jnp.zeros_like(q_bias), v_bias])
  biases = biases.astype(qkv.dtype)
  if placement.is_whole('heads'):
    # As cuBLAS adds it: along one axis, at the end of the product.
    flat = qkv.reshape(*qkv.shape[:2], biases.size)
    out = flat + biases.reshape(-1)[None, None]
    return out.reshape(qkv.shape), None
  return qkv + biases[None, None], None


def _add_biases_bwd(_, grad):
  # Of the finished gradient, or XLA computes it again for these sums. Images
  # apart: one kernel sums both, and not the part that has no bias.
  grad = jax.lax.optimization_barrier(grad)
  sums = [jnp.sum(grad[:, :, i].astype(jnp.float32), axis=1) for i in (0, 2)]
  q_sum, v_sum = (
    jnp.sum(x, axis=0) for x in jax.lax.optimization_barrier(sums)
  )
  return grad, q_sum, v_sum


_add_biases.defvjp(_add_biases_fwd, _add_biases_bwd)


def _head_scale(log_scale: Float[Array, 'N']) -> Float[Array, 'N']:
  # `where` and not `minimum`: at the limit the gradient is 1, not 1/2.
  log_scale = jnp.where(log_scale <= MAX_LOG_SCALE, log_scale, MAX_LOG_SCALE)
  return jnp.exp(log_scale)


class _FusedProjection(nn.Module):
  """Several projections in one product, [B, L, parts, F], without bias.

  The kernel is [D, parts, F] and not [D, parts F], so that cutting the last
  axis over devices cuts each part alike (q, k and v by heads).
  """

  parts: int
  width: int
  axis: str
  std: float
  dtype: str
  products: str = 'compute'

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L parts F']:
    """Returns the projections."""
    init = dense.normal(self.std, ('embed', None, self.axis))
    shape = (x.shape[-1], self.parts, self.width)
    kernel = self.param('kernel', init, shape)
    if product.stored(kernel):
      return product.product(x, kernel, self.dtype)
    if self.products == 'fp8':
      return fp8.product(x, kernel)
    return jnp.einsum('bld,dcf->blcf', x, kernel.astype(self.dtype))


class _HeadProjection(nn.Module):
  """The values of all heads to hidden states; weights as of `nn.Dense`.

  The product sums over heads and channels, [B, L, N, A] as the attention
  left it: autodiff would keep a reshaped copy as well.
  """

  width: int
  std: float
  dtype: str
  use_bias: bool
  products: str = 'compute'

  @nn.compact
  def __call__(self, x: Float[Array, 'B L N A']) -> Float[Array, 'B L D']:
    """Returns the product."""
    rows = x.shape[-2] * x.shape[-1]
    init = dense.normal(self.std, ('heads', 'embed'))
    kernel = self.param('kernel', init, (rows, self.width))
    split = *x.shape[-2:], self.width
    if product.stored(kernel):
      out = product.product(x.reshape(*x.shape[:-2], rows), kernel, self.dtype)
    elif self.products == 'fp8':
      out = fp8.product(x, kernel.reshape(split), axes=2)
    else:
      kernel = kernel.astype(self.dtype).reshape(split)
      out = jnp.einsum('blna,nad->bld', x, kernel)
    if not self.use_bias:
      return out
    bias = self.param('bias', dense.zeros(('embed',)), (self.width,))
    return out + bias.astype(self.dtype)[None, None]


class Mlp(nn.Module):
  """Linear, tanh-approximated GELU, linear; or SwiGLU."""

  spec: ModelSpec

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B L D'], products: str = 'compute'
  ) -> Float[Array, 'B L D']:
    """Returns the branch, without gate or residual."""
    spec = self.spec
    std, dtype = init_std(spec), spec.compute_dtype
    hidden = round(spec.width * spec.mlp_ratio)
    if spec.mlp == 'swiglu':
      both = _FusedProjection(
        2, hidden, 'mlp', std, dtype, products, name='fc1'
      )(x)
      both = remat.name(both, remat.HIDDEN)
      x = activation.swiglu(both[:, :, 0], both[:, :, 1])
    else:
      fc1 = dense.dense(
        hidden,
        std,
        ('embed', 'mlp'),
        dtype=dtype,
        use_bias=spec.bias,
        products=products,
      ).copy(name='fc1')
      x = nn.with_logical_constraint(fc1(x), ('batch', 'length', 'mlp'))
      x = activation.gelu(remat.name(x, remat.HIDDEN))
    x = nn.with_logical_constraint(x, ('batch', 'length', 'mlp'))
    fc2 = dense.dense(
      spec.width,
      std / math.sqrt(2 * spec.depth),
      ('mlp', 'embed'),
      dtype=dtype,
      use_bias=spec.bias,
      products=products,
    )
    return remat.name(fc2.copy(name='fc2')(x), remat.MLP)

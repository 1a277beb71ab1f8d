"""Normalisation by the statistics of the batch, without running averages.

A discriminator is never evaluated, so the running averages of batch
normalisation (Ioffe & Szegedy, arXiv 1502.03167) would never be read.
Under `jax.jit` the batch is the global one, over all devices and hosts:
what PyTorch calls synchronised. Real images and reconstructions pass
separately, and each has its own statistics.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

_EPS = 1e-5


class BatchStatNorm(nn.Module):
  """Zero mean and unit variance per channel, then a learned scale and bias.

  Input [B, ..., C] of any dtype; statistics are float32 over all axes but
  the last, and the output has type `dtype`.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    scale, bias = (
      self.param(
        name, nn.with_logical_partitioning(init, (None,)), (channels,)
      )
      for name, init in (
        ('scale', nn.initializers.ones), ('bias', nn.initializers.zeros),
      )
    )  # fmt: skip
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axes, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
    shape = (1,) * (x.ndim - 1) + (channels,)
    gain = jax.lax.rsqrt(variance + _EPS) * scale.reshape(shape)
    return (centred * gain + bias.reshape(shape)).astype(self.dtype)

"""Layers of the frozen networks, as functions of folded weights."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from varjax import errors

State = Mapping[str, np.ndarray]
Weights = dict[str, np.ndarray]


def take(state: State, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A float array of a state dict, in float64, with the shape it must have.

  Raises:
    CheckpointError: missing, of another shape, not of floats, or not finite.
  """
  if name not in state:
    raise errors.CheckpointError(f'{name}: missing from the weights')
  array = state[name]
  if array.shape != shape or array.dtype.kind != 'f':
    raise errors.CheckpointError(
      f'{name}: must be floats of shape {shape}, it is {array.dtype} of '
      f'shape {array.shape}'
    )
  if not np.isfinite(array).all():
    raise errors.CheckpointError(f'{name}: holds NaN or infinity')
  return array.astype(np.float64)


def fold(
  kernel: np.ndarray,  # [out, in, k, k]
  scale: np.ndarray,
  bias: np.ndarray,
  mean: np.ndarray,
  variance: np.ndarray,
  eps: float,
) -> Weights:
  """A convolution and the batch normalisation after it, as one convolution.

  Args:
    kernel: [out, in, k, k] of the convolution, which has no bias.
    scale, bias, mean, variance: of the normalisation, [out] each.
    eps: added to the variance.

  Returns:
    'kernel' [k, k, in, out] and 'bias' [out], float32; folded in float64.
  """
  gain = scale / np.sqrt(variance + eps)
  folded = kernel * gain[:, None, None, None]
  return {
    'kernel': np.transpose(folded, (2, 3, 1, 0)).astype(np.float32),
    'bias': (bias - mean * gain).astype(np.float32),
  }


def conv(
  weights: Weights,
  x: Float[Array, 'B H W C'],
  stride: int = 1,
  padding: str = 'SAME',
) -> jax.Array:
  """A dense convolution, channels last.

  Args:
    weights: 'kernel' [k, k, C, out] and 'bias' [out].
    x: images or maps.
    stride: along both sides.
    padding: 'SAME' or 'VALID'.

  Returns:
    [B, h, w, out].
  """
  kernel, bias = weights['kernel'], weights['bias']
  if kernel.shape[:2] == (1, 1) and stride == 1:
    return jnp.einsum('bhwc,cd->bhwd', x, kernel[0, 0]) + bias[None, None, None]
  return (
    jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    + bias[None, None, None]
  )


def depthwise(
  weights: Weights, x: Float[Array, 'B H W C'], stride: int
) -> jax.Array:
  """A convolution of each channel by itself, with SAME padding.

  Shifted multiply-adds: XLA's grouped convolution is slower by two orders
  of magnitude on a CPU.
  """
  kernel = weights['kernel']  # [k, k, 1, C]
  size = kernel.shape[0]
  outs = [-(-side // stride) for side in x.shape[1:3]]
  pads = []
  for side, out in zip(x.shape[1:3], outs, strict=True):
    total = max((out - 1) * stride + size - side, 0)
    pads.append((total // 2, total - total // 2))
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  total = jnp.zeros((), x.dtype)
  for row in range(size):
    for column in range(size):
      shifted = x[
        :,
        row : row + (outs[0] - 1) * stride + 1 : stride,
        column : column + (outs[1] - 1) * stride + 1 : stride,
      ]
      total = total + shifted * kernel[row, column, 0][None, None, None]
  return total + weights['bias'][None, None, None]


def relu6(x: jax.Array) -> jax.Array:
  """min(max(x, 0), 6)."""
  return jnp.clip(x, 0, 6)

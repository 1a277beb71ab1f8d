"""Area, bicubic and bilinear resizing as separable matrices.

The multi-scale quantiser moves features between grids, and a code depends
on every bit of it, so these are PyTorch's `interpolate` operations to the
letter (VAR section 3.2 uses area down and bicubic up). `jax.image.resize`
differs: its cubic kernel has a = -0.5, antialiases and renormalises.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

# Keys' cubic convolution parameter; PyTorch and OpenCV use this value.
_CUBIC_A = -0.75


@functools.cache
def area_matrix(n_in: int, n_out: int) -> np.ndarray:
  """Adaptive average pooling along one side.

  Output cell i is the mean of inputs floor(i n_in / n_out) up to
  ceil((i + 1) n_in / n_out); the windows overlap when the sizes do not
  divide.

  Args:
    n_in: cells before.
    n_out: cells after.

  Returns:
    float32 [n_out, n_in], read-only.
  """
  matrix = np.zeros((n_out, n_in))
  for i in range(n_out):
    start = i * n_in // n_out
    stop = -(-(i + 1) * n_in // n_out)
    matrix[i, start:stop] = 1 / (stop - start)
  return _frozen(matrix)


@functools.cache
def bicubic_matrix(n_in: int, n_out: int) -> np.ndarray:
  """Cubic convolution along one side: a = -0.75, half-pixel centres.

  Four taps around the source position, clamped to the edge; no
  antialiasing and no renormalisation, so equal sizes give the identity.

  Returns:
    float32 [n_out, n_in], read-only.
  """
  matrix = np.zeros((n_out, n_in))
  for i in range(n_out):
    source = (i + 0.5) * n_in / n_out - 0.5
    base = int(np.floor(source))
    t = source - base
    weights = (_far_tap(1 + t), _near_tap(t), _near_tap(1 - t), _far_tap(2 - t))
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
      matrix[i, min(max(base + offset, 0), n_in - 1)] += weight
  return _frozen(matrix)


@functools.cache
def bilinear_matrix(n_in: int, n_out: int) -> np.ndarray:
  """Two-tap linear interpolation along one side, half-pixel centres.

  No antialiasing: shrinking also reads two taps only.

  Returns:
    float32 [n_out, n_in], read-only.
  """
  matrix = np.zeros((n_out, n_in))
  for i in range(n_out):
    source = max((i + 0.5) * n_in / n_out - 0.5, 0.0)
    base = min(int(source), n_in - 1)
    matrix[i, base] += 1 - (source - base)
    matrix[i, min(base + 1, n_in - 1)] += source - base
  return _frozen(matrix)


MATRICES = {
  'area': area_matrix,
  'bicubic': bicubic_matrix,
  'bilinear': bilinear_matrix,
}


@jax.named_scope('resize')
def resize(
  x: Float[Array, 'B H W C'], size: tuple[int, int], kind: str
) -> Float[Array, 'B h w C']:
  """Resizes the two spatial axes, exactly as PyTorch does.

  Args:
    x: [B, H, W, C].
    size: (height, width) of the result.
    kind: 'area', 'bicubic' or 'bilinear', a key of `MATRICES`.

  Returns:
    [B, height, width, C]; `x` itself when the size does not change, which
    all three kinds map to the identity.
  """
  matrix = MATRICES[kind]
  height, width = x.shape[1:3]
  if height != size[0]:
    x = _product('oh,bhwc->bowc', matrix(height, size[0]), x)
  if width != size[1]:
    x = _product('ow,bhwc->bhoc', matrix(width, size[1]), x)
  return x


def _product(pattern: str, matrix: np.ndarray, x: jax.Array) -> jax.Array:
  return jnp.einsum(
    pattern,
    jnp.asarray(matrix, x.dtype),
    x,
    precision=jax.lax.Precision.HIGHEST,
  )


def _near_tap(x: float) -> float:
  return (_CUBIC_A + 2) * x**3 - (_CUBIC_A + 3) * x**2 + 1


def _far_tap(x: float) -> float:
  return _CUBIC_A * (x**3 - 5 * x**2 + 8 * x - 4)


def _frozen(matrix: np.ndarray) -> np.ndarray:
  matrix = matrix.astype(np.float32)
  matrix.flags.writeable = False  # the cache hands out one array
  return matrix

"""AdaLN's normalisation, alone or after a gated residual sum, as one kernel.

For training: both functions return the residual stream beside the rows for
the branch, so that the backward kernel has both gradients of the stream and
adds them. Kept for it: the stream, the branch, the vectors of the images, and
two float32 numbers a row.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.models import attention, norm, placement
from varjax.models.fused.rows import WIDEST
from varjax.spec import ModelSpec

_STREAM, _VECTOR = ('batch', None, None), ('batch', None)
Pair = tuple[Float[Array, 'B L D'], Float[Array, 'B L D']]


def fits(spec: ModelSpec, x: Float[Array, 'B L D']) -> bool:
  """Whether a block that is trained takes these kernels.

  `model.fused` 'auto': on an NVIDIA GPU, in 16 bits, of unrolled blocks. What
  a scan has kept is a part of a stack, which must be copied out for a kernel:
  then nothing is gained. In any case under AdaLN alone, of rows that fit in
  registers, and where each device has whole layers and as many images as any
  other.
  """
  able = (
    spec.norm == 'adaln'
    and placement.is_whole('heads')
    and x.shape[-1] <= WIDEST
    and placement.divides(x.shape, _STREAM)
  )
  if spec.fused == 'auto':
    unrolled = able and not spec.scan
    return unrolled and attention.on_gpu() and x.dtype.itemsize == 2
  return able and spec.fused == 'on'


def normed(
  x: Float[Array, 'B L D'],
  scale: Float[Array, 'B D'],
  shift: Float[Array, 'B D'],
) -> Pair:
  """x itself, and `norm.modulate(x, scale, shift)`."""
  return _placed(x, scale, shift)


def summed(
  x: Float[Array, 'B L D'],
  branch: Float[Array, 'B L D'],
  gate: Float[Array, 'B D'],
  scale: Float[Array, 'B D'],
  shift: Float[Array, 'B D'],
) -> Pair:
  """The stream `x + gate * branch`, and `norm.modulate` of it."""
  return _placed(x, scale, shift, branch, gate)


def _placed(*arguments: jax.Array) -> Pair:
  axes = [_STREAM if x.ndim == 3 else _VECTOR for x in arguments]
  run = functools.partial(_run, not attention.on_gpu())
  return placement.run(
    run, arguments, axes, name='fused', result=(_STREAM, _STREAM)
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(interpret: bool, x, scale, shift, branch=None, gate=None) -> Pair:
  """The kernels on the arrays of one device."""
  return _forward(interpret, x, scale, shift, branch, gate)[0]


def _forward(interpret: bool, x, scale, shift, branch=None, gate=None):
  # Not at the top: models must load where Pallas does not.
  from varjax.models.fused import kernels

  *stream, out, mean, inverse = kernels.forward(
    x, branch, gate, scale, shift, eps=norm.EPS, interpret=interpret
  )
  stream = stream[0] if stream else x
  kept = stream, branch, gate, scale, shift, mean, inverse
  return (stream, out), kept


def _backward(interpret: bool, kept, grads):
  from varjax.models.fused import kernels

  stream, branch, gate, scale, shift, mean, inverse = kept
  found = kernels.backward(
    stream, branch, gate, scale, mean, inverse, *grads, interpret=interpret
  )
  count = 1 if branch is None else 2
  whole, sums = found[:count], [jnp.sum(x, axis=1) for x in found[count:]]
  vectors = scale, shift, *(() if gate is None else (gate,))
  sums = [x.astype(like.dtype) for x, like in zip(sums, vectors, strict=True)]
  grad_x, *grad_branch = whole
  grad_scale, grad_shift, *grad_gate = sums
  if branch is None:
    return grad_x, grad_scale, grad_shift, None, None
  return grad_x, grad_scale, grad_shift, grad_branch[0], grad_gate[0]


_run.defvjp(_forward, _backward)

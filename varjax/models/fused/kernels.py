"""Kernels of a modulated LayerNorm, and of the residual sum before it.

`stream = x + gate * branch`, `LayerNorm(stream) * (1 + scale) + shift` (VAR,
arXiv 2404.02905, section 3.2; DiT, 2212.09748), and the gradients of all five.
Numbers are rounded where plain operations store them: the stream, and
everything that is returned. Without a branch the stream is x.

The backward kernel sums over positions in its registers, a tile of them in
each program; the sums of the tiles are added up outside.
"""

from __future__ import annotations

import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from varjax.models.fused.rows import Rows
from varjax.models.launch import launch, like

POSITIONS = 64  # Of a tile of the backward kernel, a power of two.


def forward(
  x: jax.Array,
  branch: jax.Array | None,
  gate: jax.Array | None,
  scale: jax.Array,
  shift: jax.Array,
  *,
  eps: float,
  interpret: bool,
) -> tuple[jax.Array, ...]:
  """Sums and normalises on one device.

  Args:
    x: [B, L, D].
    branch: [B, L, D], with gate [B, D]; or neither.
    scale, shift: [B, D].
    eps: added to the variance.
    interpret: run as ordinary operations.

  Returns:
    The stream, if there is a branch; the normalised rows; the mean and the
    inverse standard deviation of every row, float32 [B, L].
  """
  batch, length, width = x.shape
  rows = Rows.choose(width)
  whole, vector, numbers = _views(length, width)
  inputs = [(x, whole)]
  if branch is not None:
    inputs += [(branch, whole), (gate, vector)]
  number = jax.ShapeDtypeStruct((batch, length), jnp.float32)
  return launch(
    functools.partial(_forward, summed=branch is not None, rows=rows, eps=eps),
    (pl.cdiv(length, rows.count), batch),
    [*inputs, (scale, vector), (shift, vector)],
    [
      *[(like(x), whole)] * (1 if branch is None else 2),
      *[(number, numbers)] * 2,
    ],
    warps=rows.warps,
    stages=1,
    interpret=interpret,
    name='modulate_forward',
  )


def backward(
  stream: jax.Array,
  branch: jax.Array | None,
  gate: jax.Array | None,
  scale: jax.Array,
  mean: jax.Array,
  inverse: jax.Array,
  grad_stream: jax.Array,
  grad_normed: jax.Array,
  *,
  interpret: bool,
) -> tuple[jax.Array, ...]:
  """Gradients, on one device; arguments as of `forward`, and its results.

  Returns:
    Of x, and of the branch if there is one, [B, L, D]; then of scale and
    shift, and of the gate if there is one, as sums over a tile of positions
    each, float32 [B, tiles, D].
  """
  batch, length, width = stream.shape
  rows = Rows.choose(width)
  tile = max(POSITIONS, rows.count)
  tiles = pl.cdiv(length, tile)
  whole, vector, numbers = _views(length, width)
  inputs = [(stream, whole)]
  if branch is not None:
    inputs += [(branch, whole), (gate, vector)]
  inputs += [
    (scale, vector), (mean, numbers), (inverse, numbers),
    (grad_stream, whole), (grad_normed, whole),
  ]  # fmt: skip
  count = 1 if branch is None else 2
  sums = jax.ShapeDtypeStruct((batch, tiles, width), jnp.float32)
  of_tile = pl.BlockSpec((None, None, width), lambda i, b: (b, i, 0))
  return launch(
    functools.partial(
      _backward, summed=branch is not None, rows=rows, steps=tile // rows.count
    ),
    (tiles, batch),
    inputs,
    [*[(like(stream), whole)] * count, *[(sums, of_tile)] * (count + 1)],
    warps=rows.warps,
    stages=1,
    interpret=interpret,
    name='modulate_backward',
  )


def _views(length: int, width: int) -> tuple[pl.BlockSpec, ...]:
  """What a program sees of [B, L, D], [B, D] and [B, L]: its image."""
  return (
    pl.BlockSpec((None, length, width), lambda _, b: (b, 0, 0)),
    pl.BlockSpec((None, width), lambda _, b: (b, 0)),
    pl.BlockSpec((None, length), lambda _, b: (b, 0)),
  )


def _forward(x_ref, *refs, summed: bool, rows: Rows, eps: float):
  begin = pl.program_id(0) * rows.count
  stream = rows.load(x_ref, begin)
  if summed:
    branch_ref, gate_ref, scale_ref, shift_ref, stream_ref, *refs = refs
    branch = rows.load(branch_ref, begin) * rows.load_vector(gate_ref)
    stream = (stream + branch).astype(stream_ref.dtype)
    rows.store(stream_ref, begin, stream)
    stream = stream.astype(jnp.float32)
  else:
    scale_ref, shift_ref, *refs = refs
  normed_ref, mean_ref, inverse_ref = refs
  mean = rows.mean(stream)
  centred = jnp.where(rows.real[None], stream - mean, 0.0)
  inverse = lax.rsqrt(rows.mean(jnp.square(centred)) + eps)
  gain = 1.0 + rows.load_vector(scale_ref)
  shift = rows.load_vector(shift_ref)
  rows.store(normed_ref, begin, centred * inverse * gain + shift)
  rows.store_numbers(mean_ref, begin, mean)
  rows.store_numbers(inverse_ref, begin, inverse)


def _backward(stream_ref, *refs, summed: bool, rows: Rows, steps: int):
  if summed:
    branch_ref, gate_ref, *refs = refs
    gate = rows.load_vector(gate_ref)
  scale_ref, mean_ref, inverse_ref, grad_stream_ref, grad_ref, *refs = refs
  grad_x_ref, *refs = refs
  if summed:
    grad_branch_ref, *refs = refs
  gain = 1.0 + rows.load_vector(scale_ref)
  first = pl.program_id(0) * steps

  def body(step, sums):
    begin = (first + step) * rows.count
    centred = rows.load(stream_ref, begin) - rows.load_numbers(mean_ref, begin)
    normed = centred * rows.load_numbers(inverse_ref, begin)
    normed = jnp.where(rows.real[None], normed, 0.0)
    grad = rows.load(grad_ref, begin)
    scaled = grad * gain
    across = scaled - rows.mean(scaled) - normed * rows.mean(scaled * normed)
    inverse = rows.load_numbers(inverse_ref, begin)
    grad_x = rows.load(grad_stream_ref, begin) + across * inverse
    rows.store(grad_x_ref, begin, grad_x)
    found = grad * normed, grad
    if summed:
      grad_x = grad_x.astype(grad_x_ref.dtype).astype(jnp.float32)
      rows.store(grad_branch_ref, begin, grad_x * gate)
      found += (grad_x * rows.load(branch_ref, begin),)
    return tuple(x + y for x, y in zip(sums, found, strict=True))

  zeros = jnp.zeros((rows.count, rows.columns), jnp.float32)
  for ref, value in zip(
    refs, lax.fori_loop(0, steps, body, (zeros,) * len(refs)), strict=True
  ):
    rows.store_vector(ref, jnp.sum(value, axis=0))

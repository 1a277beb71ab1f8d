"""Few rows times weights that are read once, on NVIDIA GPUs.

A step of a sampler with few images waits for its weights. This kernel reads
a layer's kernel where it lies among those of all layers, as bfloat16 or
int8, and turns int8 into the type of the rows in registers: nothing is copied
or stored in another type. XLA's own products need both, a slice of one layer
and a copy of it in bfloat16.

Where there are too few tiles for all multiprocessors, the sum is split over
programs, whose parts are added afterwards: always in the same order.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from varjax.models.flash import softmax
from varjax.models.launch import launch, whole
from varjax.models.product import GRAIN

# One for each of the 132 multiprocessors of an H100: each has four tiles of
# weights on their way, more than it takes to keep the memory busy.
_PROGRAMS = 132


class Tile(NamedTuple):
  """Shape of one program's part, and how it is run."""

  rows: int
  columns: int
  inner: int  # Of the axis that is summed over.
  warps: int = 4
  stages: int = 4


def product(
  x: Float[Array, 'T D'],
  stack: Shaped[Array, 'depth D F'],
  scale: Float[Array, 'depth F'] | None,
  layer: Int[Array, ''] | int,
  *,
  count: int = 1,
  out: jnp.dtype,
  interpret: bool = False,
  programs: int = _PROGRAMS,
) -> Float[Array, 'T _ F']:
  """x @ stack[i] * scale[i] for `count` layers i from `layer` on.

  Args:
    x: rows, of one device.
    stack: kernels of all layers; D and F are multiples of `GRAIN`.
    scale: of each output, applied to the float32 sums; None is 1.
    layer: the first of the layers to multiply with.
    count: of these.
    out: type of the result.
    interpret: run the kernel as ordinary operations.
    programs: to split the work of one device into, at the least, while each
      still has a tile to read.
  """
  rows, inner = x.shape
  columns = stack.shape[-1]
  tile = choose(rows, inner, columns, stack.dtype.itemsize)
  across = pl.cdiv(rows, tile.rows), columns // tile.columns, count
  steps = inner // tile.inner
  splits = min(steps, pl.cdiv(programs, math.prod(across)))
  each = pl.cdiv(steps, splits)
  splits = pl.cdiv(steps, each)
  arguments = [x, stack, jnp.asarray(layer, jnp.int32).reshape(1)]
  if scale is not None:
    arguments.append(scale)
  shape = splits, rows, count, columns
  made = jax.ShapeDtypeStruct(shape, out if splits == 1 else jnp.float32)
  (parts,) = launch(
    functools.partial(_kernel, tile=tile, each=each),
    (across[0], across[1], splits, count),
    [(array, whole(array.shape)) for array in arguments],
    [(made, whole(shape))],
    warps=tile.warps,
    stages=tile.stages,
    interpret=interpret,
    name='few_rows',
  )
  # Sums of slices, and no reduction: they become a part of what comes next.
  total = parts[0]
  for part in parts[1:]:
    total = total + part
  return total.astype(out)


def choose(rows: int, inner: int, columns: int, weight_bytes: int) -> Tile:
  """The tile of a product; see `benchmarks/sampler_kernels.py`."""
  return Tile(
    min(64, max(GRAIN, pl.next_power_of_2(rows))),
    _divisor(columns, 64),
    # 64 bytes of weights in a row of the other axis.
    _divisor(inner, 128 // weight_bytes),
  )


def _divisor(size: int, most: int) -> int:
  """The largest power of two up to `most` that divides `size`."""
  while size % most:
    most //= 2
  return most


def _kernel(x_ref, stack_ref, layer_ref, *refs, tile, each):
  *scale_ref, out_ref = refs
  rows, inner = x_ref.shape
  row, column = pl.program_id(0) * tile.rows, pl.program_id(1) * tile.columns
  split, group = pl.program_id(2), pl.program_id(3)
  at_columns = pl.ds(column, tile.columns)
  at_rows = pl.ds(row, tile.rows)
  inside = (row + jnp.arange(tile.rows) < rows)[:, None]
  layer = layer_ref[0] + group

  def body(step, total):
    at_inner = pl.ds(step * tile.inner, tile.inner)
    left = triton.load(x_ref.at[at_rows, at_inner], mask=inside, other=0.0)
    right = triton.load(stack_ref.at[layer, at_inner, at_columns])
    return total + softmax.matmul(left, right.astype(left.dtype))

  lowest = split * each
  highest = jnp.minimum(lowest + each, inner // tile.inner)
  total = jnp.zeros((tile.rows, tile.columns), jnp.float32)
  total = lax.fori_loop(lowest, highest, body, total)
  if scale_ref:
    total = total * triton.load(scale_ref[0].at[layer, at_columns])[None]
  triton.store(
    out_ref.at[split, at_rows, group, at_columns],
    total.astype(out_ref.dtype),
    mask=inside,
  )

"""One launch of a kernel: every array beside the view that a program has.

A list of arrays, one of views and the references of a kernel that must agree
in their order are three places to get wrong; pairs are one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from varjax.models.flash.tiles import Tile

# What a program reads, or (as a shape and a type) writes; and its view.
Input = tuple[jax.Array, pl.BlockSpec]
Output = tuple[jax.ShapeDtypeStruct, pl.BlockSpec]


def launch(
  kernel: Callable[..., None],
  grid: tuple[int, ...],
  inputs: Sequence[Input],
  outputs: Sequence[Output],
  *,
  tile: Tile,
  interpret: bool,
  name: str,
  aliases: Mapping[int, int] | None = None,
) -> tuple[jax.Array, ...]:
  """Runs a kernel on one device.

  Args:
    kernel: takes a reference for each input, then one for each output.
    grid: programs along each axis; the last two are heads and images.
    inputs: arrays and their views.
    outputs: shapes, types and views of the results.
    tile: how many threads share it, and how far ahead they load.
    interpret: run as ordinary operations.
    name: of the kernel in programs and profiles.
    aliases: inputs whose memory an output takes over, by their places.

  Returns:
    The outputs, in order.
  """
  call = pl.pallas_call(
    kernel,
    grid=grid,
    in_specs=[view for _, view in inputs],
    out_specs=[view for _, view in outputs],
    out_shape=[shape for shape, _ in outputs],
    compiler_params=triton.CompilerParams(
      num_warps=tile.warps, num_stages=tile.stages
    ),
    interpret=interpret,
    name=name,
    input_output_aliases=dict(aliases or {}),
  )
  return tuple(call(*[array for array, _ in inputs]))


def like(x: jax.Array) -> jax.ShapeDtypeStruct:
  """An output of the shape and type of an array."""
  return jax.ShapeDtypeStruct(x.shape, x.dtype)

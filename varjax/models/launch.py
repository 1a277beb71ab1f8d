"""One launch of a Triton kernel: every array beside a program's view of it.

A list of arrays, one of views and the references of a kernel that must agree
in their order are three places to get wrong; pairs are one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# What a program reads, or (as a shape and a type) writes; and its view.
Input = tuple[jax.Array, pl.BlockSpec]
Output = tuple[jax.ShapeDtypeStruct, pl.BlockSpec]


def launch(
  kernel: Callable[..., None],
  grid: tuple[int, ...],
  inputs: Sequence[Input],
  outputs: Sequence[Output],
  *,
  warps: int,
  stages: int | None = None,
  interpret: bool,
  name: str,
  aliases: Mapping[int, int] | None = None,
) -> tuple[jax.Array, ...]:
  """Runs a kernel on one device.

  Args:
    kernel: takes a reference for each input, then one for each output.
    grid: programs along each axis.
    inputs: arrays and their views.
    outputs: shapes, types and views of the results.
    warps: of 32 threads each, that run a program.
    stages: of the pipeline that loads ahead; None leaves it to the compiler.
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
    compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
    interpret=interpret,
    name=name,
    input_output_aliases=dict(aliases or {}),
  )
  return tuple(call(*[array for array, _ in inputs]))


def whole(shape: tuple[int, ...]) -> pl.BlockSpec:
  """All of an array, in every program."""
  return pl.BlockSpec(shape, lambda *_: (0,) * len(shape))


def like(x: jax.Array) -> jax.ShapeDtypeStruct:
  """An output of the shape and type of an array."""
  return jax.ShapeDtypeStruct(x.shape, x.dtype)

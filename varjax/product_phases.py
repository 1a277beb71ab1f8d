"""The products of all blocks as phases of an update, in either type.

`model.products` says whether they multiply the compute type or float8
(arXiv 2209.05433); what float8 adds is the rounding of what goes in. Part of
`phases`, under its assumptions. No JAX in here.
"""

from __future__ import annotations

import dataclasses

from varjax.params import ITEM_BYTES, hidden_width
from varjax.phase import Phase
from varjax.spec import ModelSpec, RunSpec

_FLOAT32 = 4
_FLOAT8 = 1


def shapes(model: ModelSpec) -> dict[str, tuple[int, int]]:
  """Inputs and outputs of the products of a row in one block."""
  d, m = model.width, hidden_width(model)
  up = 2 * m if model.mlp == 'swiglu' else m
  return {'qkv': (d, 3 * d), 'projection': (d, d), 'fc1': (d, up),
          'fc2': (m, d)}  # fmt: skip


def forward(run: RunSpec, rows: int) -> dict[str, Phase]:
  """The products of `rows` positions, by name."""
  c = ITEM_BYTES[run.model.compute_dtype]
  # Of what goes in. What comes out is in the compute type.
  item = _FLOAT8 if run.model.products == 'fp8' else c
  return {
    name: _phase(run, name, rows, 1, item * a * (rows + b) + c * rows * b)
    for name, (a, b) in shapes(run.model).items()
  }


def backward(run: RunSpec, rows: int) -> dict[str, Phase]:
  """Two products for each of `forward`; weights' gradients are float32."""
  c = ITEM_BYTES[run.model.compute_dtype]
  item = _FLOAT8 if run.model.products == 'fp8' else c
  return {
    name: _phase(
      run,
      name,
      rows,
      2,
      item * (rows * (a + 2 * b) + a * b) + c * rows * a + _FLOAT32 * a * b,
    )
    for name, (a, b) in shapes(run.model).items()
  }


def _phase(
  run: RunSpec, name: str, rows: int, products: int, moved: int
) -> Phase:
  """`products` of one shape in every layer, each of which moves `moved`."""
  n, (a, b) = run.model.depth, shapes(run.model)[name]
  work = 2 * products * n * rows * a * b
  eight = work if run.model.products == 'fp8' else 0
  return Phase(name, work, n * moved, products * n, eight)


def rounding(run: RunSpec, rows: int) -> list[Phase]:
  """Inputs and weights to float8; what makes an input finds its largest."""
  n, c = run.model.depth, ITEM_BYTES[run.model.compute_dtype]
  inputs = sum(a for a, _ in shapes(run.model).values())
  weights = sum(a * b for a, b in shapes(run.model).values())
  count = n * len(shapes(run.model))
  rounded = rows * inputs * (c + _FLOAT8) + weights * (_FLOAT32 + _FLOAT8)
  return [
    Phase('largest weights', 0, n * weights * _FLOAT32, count),
    Phase('rounding', 0, n * rounded, 2 * count),
  ]


def rounding_again(
  run: RunSpec, repeated: list[Phase], rows: int
) -> list[Phase]:
  """What is repeated, where it goes straight to float8.

  No wider copy of an input is written and read; of the four, only what
  attention left was kept and is read.
  """
  n, c = run.model.depth, ITEM_BYTES[run.model.compute_dtype]
  inputs = {name: a for name, (a, _) in shapes(run.model).items()}
  spared = {
    'norm': inputs['qkv'] + inputs['fc1'],
    'activation': inputs['fc2'],
    'rounding': inputs['qkv'] + inputs['fc1'] + inputs['fc2'],
  }
  return [
    dataclasses.replace(
      phase, bytes=phase.bytes - n * rows * c * spared.get(phase.name, 0)
    )
    for phase in repeated
  ]


def turning(run: RunSpec, rows: int) -> Phase:
  """Gradients to float8, and what lies the wrong way for two products.

  Matrix units of 8 bits want rows of what is summed over: the gradient is
  written in both orders, and an input and weights that were kept are turned;
  those that are found again are written as they are needed.
  """
  n, c = run.model.depth, ITEM_BYTES[run.model.compute_dtype]
  kept = run.model.remat == 'none'
  moved = sum(
    rows * b * (c + 2 * _FLOAT8) + kept * 2 * _FLOAT8 * a * (rows + b)
    for a, b in shapes(run.model).values()
  )
  kernels = 3 if kept else 1
  return Phase('rounding', 0, n * moved, kernels * n * len(shapes(run.model)))

"""The networks that the speed benchmarks time, with random weights.

Built from specs alone, without experiment files: these need packages that
a bare accelerator machine lacks.
"""

from __future__ import annotations

import dataclasses

from flax.core import meta
import jax
import jax.numpy as jnp

from varjax import spec as specs
from varjax.types import PyTree

# The official VQ-VAE at 256 pixels, and one that a CPU runs in moments.
OFFICIAL = specs.TokenizerSpec()
TINY = specs.TokenizerSpec(
  ch=8, ch_mult=(1, 1, 1), num_res_blocks=1, norm_groups=4, code_dim=8,
  vocab=64, scales=(1, 2, 4),
)  # fmt: skip
CLASSES = 1000


def run_of(
  depth: int, tokenizer: specs.TokenizerSpec, **model
) -> specs.RunSpec:
  """The run of a VAR of `depth` with VAR's size rule, w = 64 d, h = d."""
  resolution = tokenizer.downsample * tokenizer.grids[-1][0]
  return specs.RunSpec(
    task='generate',
    total=specs.Duration(steps=1000),
    tokenizer=tokenizer,
    data=dataclasses.replace(specs.DataSpec(), resolution=resolution),
    model=specs.ModelSpec(
      depth=depth,
      width=64 * depth,
      heads=depth,
      num_classes=CLASSES,
      drop_path=0.1 * depth / 24,
      **model,
    ),
  )


def unrolled(text: str) -> dict[str, int | bool]:
  """Fields of a model for `--unroll`: a number of layers, 0 or all."""
  return {'scan': False} if text == 'all' else {'unroll': int(text)}


def random_like(init, *args) -> PyTree:
  """Weights of the shapes of `init(*args)`, normal with unit fan-in.

  Timing needs no trained weights, but codes and samples of all-equal weights
  would be all equal, which some kernels answer faster.
  """

  @jax.jit
  def draw(key):
    shapes = meta.unbox(jax.eval_shape(init, *args))
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten(
      jax.random.normal(k, x.shape) / max(x.size // x.shape[-1], 1) ** 0.5
      if x.ndim else jnp.zeros((), x.dtype)
      for k, x in zip(keys, leaves, strict=True)
    )  # fmt: skip

  return draw(jax.random.key(0))

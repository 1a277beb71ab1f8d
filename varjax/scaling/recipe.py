"""Named recipes: batch, learning rate and schedule of a planned run.

A plan finds how large and how long; a recipe says how to train it. Only
recipes whose numbers are published together with their results are here.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from varjax import errors
from varjax.spec import Duration, RunSpec

# depth: batch, lr at 256 images, init_gamma, final lr, final weight decay.
# Source: training commands in the README of the official VAR code.
_VAR = {
  16: (768, 1e-4, 1e-3, 0.1, 0.05),
  20: (768, 1e-4, 1e-3, 0.1, 0.05),
  24: (768, 8e-5, 1e-4, 0.01, 0.05),
  30: (1024, 8e-5, 1e-5, 0.01, 0.08),
}


def apply(name: str, run: RunSpec) -> RunSpec:
  """Sets what the recipe decides in a run of known size.

  Args:
    name: key of RECIPES.
    run: with its final depth and width.

  Raises:
    ConfigError: an unknown recipe.
  """
  if name not in RECIPES:
    raise errors.ConfigError(
      f'recipe {name!r}: must be one of {", ".join(RECIPES)}'
    )
  return RECIPES[name](run)


def keep(run: RunSpec) -> RunSpec:
  """Batch, learning rate and schedule of the base config, unchanged."""
  return run


def var(run: RunSpec) -> RunSpec:
  """VAR (arXiv 2404.02905): lr = 1e-4 * batch / 256, 8e-5 from d24 on.

  Four depths are published; another takes the nearest, the smaller at a
  tie. Epochs are the plan's, not the recipe's.
  """
  depth = run.model.depth
  nearest = min(_VAR, key=lambda known: (abs(known - depth), known))
  batch, lr, init_gamma, final, weight_decay_end = _VAR[nearest]
  return dataclasses.replace(
    run,
    batch_size=batch,
    model=dataclasses.replace(
      run.model,
      init_gamma=init_gamma,
      drop_path=0.1 * depth / 24,
      label_drop=0.1,
    ),
    optim=dataclasses.replace(
      run.optim,
      lr=lr,
      lr_reference_batch=256,
      schedule='lin0',
      warmup=Duration(frac=1 / 50),
      warmup_start=0.005,
      final=final,
      beta1=0.9,
      beta2=0.95,
      eps=1e-8,
      weight_decay=0.05,
      weight_decay_end=weight_decay_end,
      clip_norm=2.0,
      accumulate=1,
    ),
  )


RECIPES: dict[str, Callable[[RunSpec], RunSpec]] = {'var': var, 'keep': keep}

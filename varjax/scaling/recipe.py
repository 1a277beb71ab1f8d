"""Named recipes: batch, learning rate and schedule of a planned run.

A plan finds how large and how long; a recipe says how to train it. `var`
was published together with its results; `deepseek` and `steplaw` are laws
of batch and learning rate fitted on text, quoted from memory, and no
substitute for tuning at a small size.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

from varjax import errors, flops
from varjax.spec import Duration, RunSpec

# depth: batch, lr at 256 images, init_gamma, final lr, final weight decay.
# Source: training commands in the README of the official VAR code.
_VAR = {
  16: (768, 1e-4, 1e-3, 0.1, 0.05),
  20: (768, 1e-4, 1e-3, 0.1, 0.05),
  24: (768, 8e-5, 1e-4, 0.01, 0.05),
  30: (1024, 8e-5, 1e-5, 0.01, 0.08),
}


def apply(name: str, run: RunSpec, images: float | None = None) -> RunSpec:
  """Sets what the recipe decides in a run of known size.

  Args:
    name: key of RECIPES.
    run: with its final depth and width.
    images: that it will see; `deepseek` and `steplaw` depend on it.

  Raises:
    ConfigError: an unknown recipe, or one that needs the images.
  """
  if name not in RECIPES:
    raise errors.ConfigError(
      f'recipe {name!r}: must be one of {", ".join(RECIPES)}'
    )
  if name in CAVEATS and not (images and images > 0):
    raise errors.ConfigError(f'recipe {name} needs the length of the run')
  return RECIPES[name](run, images or 0.0)


def keep(run: RunSpec, images: float = 0.0) -> RunSpec:
  """Batch, learning rate and schedule of the base config, unchanged."""
  del images
  return run


def var(run: RunSpec, images: float = 0.0) -> RunSpec:
  """VAR (arXiv 2404.02905): lr = 1e-4 * batch / 256, 8e-5 from d24 on.

  Four depths are published; another takes the nearest, the smaller at a
  tie. Epochs are the plan's, not the recipe's.
  """
  del images
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


def deepseek(run: RunSpec, images: float) -> RunSpec:
  """lr = .3118 C^-.1250 and B = .2920 C^.3271 tokens (DeepSeek LLM 2024).

  From memory, unverified: constants of arXiv 2401.02954. C is the exact
  training FLOPs of the run, as the paper counts attention and not
  embeddings. Fitted on text. The schedule stays that of the base config.
  """
  c = images * flops.train_flops_per_image(run.model, run.tokenizer).total
  return _law(run, images, 0.3118 * c**-0.1250, 0.2920 * c**0.3271)


def steplaw(run: RunSpec, images: float) -> RunSpec:
  """lr = 1.79 N^-.713 D^.307 and B = .58 D^.571 tokens (Step Law 2025).

  From memory, unverified: constants of arXiv 2503.04715. N counts the
  blocks, D the tokens seen. Fitted on text. The schedule stays that of the
  base config.
  """
  n = flops.parameter_counts(run.model, run.tokenizer).body
  d = images * flops.sequence_of(run.tokenizer).positions
  return _law(run, images, 1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571)


def _law(run: RunSpec, images: float, lr: float, tokens: float) -> RunSpec:
  """A batch of about `tokens`, in parts as before, at the rate `lr`."""
  positions = flops.sequence_of(run.tokenizer).positions
  batch = _round(min(tokens / positions, images), run.optim.accumulate)
  return dataclasses.replace(
    run,
    batch_size=batch,
    optim=dataclasses.replace(run.optim, lr=lr, lr_reference_batch=0),
  )


def _round(images: float, parts: int) -> int:
  """To a multiple of 64 that the devices divide; below it, a power of 2."""
  if images >= 64:
    whole = 64 * round(images / 64)
  else:
    whole = 2 ** int(math.log2(max(images, 1.0)))
  return max(parts, whole - whole % parts)


RECIPES: dict[str, Callable[[RunSpec, float], RunSpec]] = {
  'var': var,
  'keep': keep,
  'deepseek': deepseek,
  'steplaw': steplaw,
}
# What a plan must say about a recipe.
CAVEATS = {
  name: f'recipe {name}: constants from memory, unverified, and fitted on '
  'text; tune batch and learning rate at a small size first'
  for name in ('deepseek', 'steplaw')
}

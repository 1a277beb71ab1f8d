"""The cheapest run that reaches a loss, inference included.

The question of Sardana 2024 (arXiv 2401.00448, section 2): minimise the
FLOPs of training and of all sampling under L(N, D) = target. A budget
(plan.py) asks for the best loss instead; both use the exact FLOPs of each
size. At equal loss a smaller model is trained longer and sampled for less:
`equal_loss` says by how much, and from how many samples on it pays.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from varjax import errors
from varjax.scaling.ladder import Sizes
from varjax.scaling.law import Law
from varjax.scaling.menu import Demand, Menu
from varjax.scaling.plan import Plan, check_surface, finish, size_of


def images_for(menu: Menu, loss: float, demand: Demand) -> np.ndarray:
  """Training images with which each size reaches a loss, [sizes].

  Infinite where it never does: the floor and the size term already exceed
  the loss, or the unique data repeated for ever is not worth the tokens.
  """
  p = menu.law.params
  left = loss - p.get('E', 0.0) - p['A'] * menu.n ** -p['alpha']
  with np.errstate(all='ignore'):
    tokens = np.where(left > 0, (p['B'] / left) ** (1 / p['beta']), np.inf)
  constant, unique = demand.repeat_constant, demand.unique_images
  if constant is not None and unique is not None:
    once = float(unique * menu.positions)
    worth = (tokens / once - 1.0) / constant
    with np.errstate(all='ignore'):
      repeated = once * (1.0 - constant * np.log1p(-worth))
    repeated = np.where(worth < 1, repeated, np.inf)
    tokens = np.where(tokens <= once, tokens, repeated)
  return np.maximum(tokens / menu.positions, 1.0)


def plan_for_loss(
  law: Law,
  ladder: Sizes,
  loss: float,
  demand: Demand,
  allow_extrapolation: bool = False,
) -> Plan:
  """The size that reaches a loss for the fewest FLOPs.

  Args:
    law: a fitted surface.
    ladder: the sizes that can be built.
    loss: the target, in the unit of the fit.
    demand: inference and data; its `flops` are not looked at.
    allow_extrapolation: plan even more than 30 times beyond the fit.

  Returns:
    A plan whose `demand.flops` are what the best size costs, and whose
    sizes all reach the loss; `deadweight` is the share of a size's cost
    that the best would not have needed.

  Raises:
    FitRefused: the law has no data term, no size reaches the loss, or the
      plan lies too far outside the fit.
    ConfigError: the loss is not positive.
  """
  if not (math.isfinite(loss) and loss > 0):
    raise errors.ConfigError(f'target_loss={loss}: must be positive')
  check_surface(law)
  menu = Menu(law, ladder)
  images = images_for(menu, loss, demand)
  cost = images * menu.train + demand.inference_images * menu.sample
  if not np.isfinite(cost).any():
    floor = law.params.get('E', 0.0)
    largest = int(np.argmax(menu.n))
    least = floor + law.params['A'] * menu.n[largest] ** -law.params['alpha']
    raise errors.FitRefused(
      f'no size reaches a loss of {loss:g}: with endless new data '
      f'{ladder.name(ladder.rungs[largest])} ends at {least:.4g}, and the '
      f'fitted floor is {floor:.4g}'
      + (
        '; repeats of the given unique_images are worth less still'
        if demand.repeat_constant is not None
        else ''
      )
    )
  at = int(np.argmin(cost))
  spent = dataclasses.replace(demand, flops=float(cost[at]))
  sizes = tuple(
    size_of(menu, spent, i, float(images[i]), 1.0 - float(cost[at] / cost[i]))
    for i in np.flatnonzero(np.isfinite(cost)).tolist()
  )
  return finish(menu, spent, at, sizes, allow_extrapolation, loss)


def equal_loss(
  law: Law, ladder: Sizes, found: Plan, most: float = 100.0
) -> list[dict[str, Any]]:
  """The over-training curve: what other sizes take for the planned loss.

  Args:
    law, ladder: of the plan.
    found: the plan; its best size is the reference.
    most: sizes that need this many times its training FLOPs are left out.

  Returns:
    One mapping a size: `name`, `rung`, `n`, `images`, `tokens_per_param`,
    `flops_train`, `overhead` (training FLOPs over those of the best size,
    minus 1), `flops_per_sample`, `sample_saving` (1 minus its ratio to the
    best size's) and `break_even_images`: samples from which on a smaller
    size is cheaper in all, None for one that never is.
  """
  menu = Menu(law, ladder)
  at = ladder.rungs.index(found.best.rung)
  images = images_for(menu, found.best.loss, found.demand)
  train = images * menu.train
  rows = []
  for i in np.flatnonzero(train <= most * train[at]).tolist():
    dearer = float(train[i] - train[at])
    saved = float(menu.sample[at] - menu.sample[i])
    pays = saved > 0 and dearer >= 0
    rows.append(
      {
        'name': ladder.name(ladder.rungs[i]), 'rung': ladder.rungs[i],
        'n': float(menu.n[i]), 'images': float(images[i]),
        'tokens_per_param': float(images[i] * menu.positions / menu.n[i]),
        'flops_train': float(train[i]),
        'overhead': float(train[i] / train[at]) - 1.0,
        'flops_per_sample': float(menu.sample[i]),
        'sample_saving': saved / float(menu.sample[at]),
        'break_even_images': dearer / saved if pays else None,
      }
    )  # fmt: skip
  return rows

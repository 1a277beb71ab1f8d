"""From a compute budget to the run that a fitted surface says is best.

The last step before spending: L(N, D) is minimised over the sizes that can
really be built, each trained for as many images as the budget pays for by
the exact FLOPs of varjax.flops (block-causal attention, AdaLN once per
image) instead of C = 6 N D. The continuous optimum of Hoffmann 2022 stands
beside it. Inference is part of the budget where asked (Sardana 2024, arXiv
2401.00448), and target.py turns the question round: the cheapest run that
reaches a loss. What there is to choose from is in menu.py.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from varjax import errors
from varjax.scaling import optimum
from varjax.scaling.ladder import Sizes
from varjax.scaling.law import Law
from varjax.scaling.menu import Demand, Menu, effective_tokens

# Beyond this factor over the largest fitted input a plan needs a flag.
MAX_EXTRAPOLATION = 30.0


@dataclasses.dataclass(frozen=True)
class Size:
  """One size that the budget pays for.

  Attributes:
    name, rung: in the ladder.
    n: parameters as the fit counted them.
    images: seen in training, repeats counted; tokens: the same in tokens.
    effective_tokens: what the loss is predicted from.
    epochs: None without unique_images.
    flops_train, flops_inference: of the whole plan.
    loss, lo, hi: prediction and the 95 % interval of a new run.
    deadweight: share of the budget that the best size would not have
      needed for this loss.
  """

  name: str
  rung: int
  n: float
  images: float
  tokens: float
  effective_tokens: float
  epochs: float | None
  flops_train: float
  flops_inference: float
  loss: float
  lo: float | None
  hi: float | None
  deadweight: float


@dataclasses.dataclass(frozen=True)
class Optimum:
  """The continuous optimum of k N D + k' N D' FLOPs, with 95 % intervals.

  Attributes:
    k, k_inference: FLOPs of training and of sampling over N times tokens,
      at the planned size.
    n, d, loss: where L(N, D) is least for the budget, or where `loss` is
      reached for the least.
    n_interval, d_interval: 95 % over the draws of the fit, None without.
    flops: training and inference together.
    d_inference: D', tokens that are sampled.
  """

  k: float
  n: float
  n_interval: tuple[float, float] | None
  d: float
  d_interval: tuple[float, float] | None
  loss: float
  k_inference: float
  d_inference: float
  flops: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """The best size, all others beside it, and what to be careful about.

  Attributes:
    demand: what may be spent; of a plan for a loss, what it takes.
    best: the size to train; sizes: all that can be.
    optimum: continuous.
    extrapolation: factor beyond the largest fitted input.
    warnings: in words.
    target_loss: the loss that was asked for; None for a budget.
  """

  demand: Demand
  best: Size
  sizes: tuple[Size, ...]
  optimum: Optimum
  extrapolation: float
  warnings: tuple[str, ...]
  target_loss: float | None = None


def plan(
  law: Law, ladder: Sizes, demand: Demand, allow_extrapolation: bool = False
) -> Plan:
  """The size with the lowest predicted loss that the budget pays for.

  Args:
    law: a fitted surface.
    ladder: the sizes that can be built.
    demand: budget, inference and data.
    allow_extrapolation: plan even more than 30 times beyond the fit.

  Raises:
    FitRefused: the law has no data term, the budget pays for no size, or
      the plan lies too far outside the fit.
  """
  check_surface(law)
  menu = Menu(law, ladder)
  losses = menu.losses(demand)
  if not np.isfinite(losses).any():
    raise errors.FitRefused(
      f'a budget of {demand.flops:.3g} FLOPs does not pay for one image of '
      f'the smallest size, {ladder.name(ladder.rungs[0])}'
    )
  at = int(np.argmin(losses))
  images = menu.images(demand)
  sizes = []
  for i in np.flatnonzero(np.isfinite(losses)).tolist():
    waste = _deadweight(menu, demand, float(losses[i]))
    sizes.append(size_of(menu, demand, i, float(images[i]), waste))
  return finish(menu, demand, at, tuple(sizes), allow_extrapolation)


def finish(
  menu: Menu,
  demand: Demand,
  at: int,
  sizes: tuple[Size, ...],
  allow_extrapolation: bool,
  target_loss: float | None = None,
) -> Plan:
  """A plan from its sizes.

  Args:
    menu: what there is to choose from.
    demand: what it was chosen for.
    at: index of the best size in the ladder.
    sizes: all that were compared.
    allow_extrapolation: plan however far beyond the fitted runs.
    target_loss: that the plan reaches, where it is not of a budget.

  Raises:
    FitRefused: the best size lies too far outside the fit.
  """
  law, ladder = menu.law, menu.ladder
  best = next(s for s in sizes if s.rung == ladder.rungs[at])
  beyond = extrapolation(law, best.n, best.tokens)
  if beyond > MAX_EXTRAPOLATION and not allow_extrapolation:
    raise errors.FitRefused(
      f'the plan lies {beyond:.0f} times beyond the largest fitted run, more '
      f'than {MAX_EXTRAPOLATION:.0f}; fit larger runs, lower the budget, or '
      'pass --extrapolate'
    )
  return Plan(
    demand=demand,
    best=best,
    sizes=sizes,
    optimum=_optimum(menu, demand, at, target_loss),
    extrapolation=beyond,
    warnings=tuple(_warnings(law, ladder, demand, best, beyond)),
    target_loss=target_loss,
  )


def check_surface(law: Law) -> None:
  """Refuses to plan with a law that knows nothing of data.

  Raises:
    FitRefused: it is an L(N).
  """
  if not law.has_surface:
    raise errors.FitRefused(
      f'{law.name} holds no L(N, D): with one training length the data term '
      'is not identified and no optimum exists; train the ladder at two or '
      'more lengths that differ by 10 times, or name --sizes for predictions'
    )


def extrapolation(law: Law, n: float, d: float | None) -> float:
  """Largest factor by which a run exceeds the fitted inputs, at least 1."""
  factors = [1.0]
  if law.largest.get('n'):
    factors.append(n / law.largest['n'])
  if d is not None and law.largest.get('d'):
    factors.append(d / law.largest['d'])
  return max(factors)


def size_of(
  menu: Menu, demand: Demand, i: int, images: float, deadweight: float
) -> Size:
  """One size of a plan.

  Args:
    menu: what there is to choose from.
    demand: what for; its unique images make repeats count less.
    i: index of the size in the ladder.
    images: that it is trained on.
    deadweight: share of the budget that another size would have saved.
  """
  tokens = images * menu.positions
  counted = float(effective_tokens(np.array(images), menu.positions, demand))
  found = menu.law.predict(float(menu.n[i]), counted)
  unique = demand.unique_images
  return Size(
    name=menu.ladder.name(menu.ladder.rungs[i]),
    rung=menu.ladder.rungs[i],
    n=float(menu.n[i]),
    images=images,
    tokens=tokens,
    effective_tokens=counted,
    epochs=images / unique if unique else None,
    flops_train=images * float(menu.train[i]),
    flops_inference=demand.inference_images * float(menu.sample[i]),
    loss=found.value,
    lo=found.lo,
    hi=found.hi,
    deadweight=deadweight,
  )


def _deadweight(menu: Menu, demand: Demand, loss: float) -> float:
  """1 - C' / C with C' the least budget that reaches `loss`, in [0, 1)."""

  def best(budget: float) -> float:
    return float(menu.losses(dataclasses.replace(demand, flops=budget)).min())

  high = math.log(demand.flops)
  if best(demand.flops) >= loss:
    return 0.0
  low = high - 40.0
  for _ in range(60):
    middle = (low + high) / 2
    low, high = (low, middle) if best(math.exp(middle)) <= loss else (
      middle, high
    )  # fmt: skip
  return max(0.0, 1.0 - math.exp(high) / demand.flops)


def _optimum(
  menu: Menu, demand: Demand, at: int, target_loss: float | None
) -> Optimum:
  law = menu.law
  nd = float(menu.n[at] * menu.positions)
  k, k_sample = float(menu.train[at]) / nd, float(menu.sample[at]) / nd
  sampled = demand.inference_images * menu.positions

  def solve(params: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    if target_loss is None:
      found = optimum.with_inference(params, demand.flops, k, k_sample, sampled)
      return (*found, demand.flops)
    n, d, cost = optimum.cheapest(params, target_loss, k, k_sample, sampled)
    return n, d, target_loss, cost

  n, d, loss, cost = map(float, solve(law.params))
  intervals: list[tuple[float, float] | None] = [None, None]
  if law.draws:
    for i, values in enumerate(solve(law.draws)[:2]):
      kept = values[np.isfinite(values)]
      # A target below the floor of many draws has no interval.
      if len(kept) >= max(20, 0.9 * len(values)):
        low, high = np.quantile(kept, [law.tail, 1 - law.tail])
        intervals[i] = (float(low), float(high))
  return Optimum(
    k, n, intervals[0], d, intervals[1], loss, k_sample, sampled, cost
  )


def _warnings(
  law: Law, ladder: Sizes, demand: Demand, best: Size, beyond: float
) -> list[str]:
  found = []
  for rung, word in (
    (ladder.rungs[0], 'smallest'),
    (ladder.rungs[-1], 'largest'),
  ):
    if best.rung == rung:
      found.append(
        f'{best.name} is the {word} size considered: the optimum may lie '
        'outside'
      )
  if beyond > 2:
    found.append(f'{beyond:.1f} times beyond the largest fitted run')
  if law.assumed:
    found.append(
      'the fit is not of varjax records: its N is taken to count '
      f'{law.n_convention}'
    )
  if not law.draws:
    found.append('the fit has no bootstrap, so predictions have no interval')
  epochs = best.epochs
  if epochs is None:
    found.append('unique_images is not known, so epochs are not either')
  elif epochs > 4 and demand.repeat_constant is None:
    found.append(
      f'{epochs:.0f} epochs: every repeat counts as new data here, as it did '
      'in the fit; beyond the epochs of the fitted runs that is too hopeful '
      '(set repeat_constant)'
    )
  return found

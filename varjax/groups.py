"""Parameter groups: parts of the weights with an optimiser of their own.

Most tasks have one group, `MAIN`. A task that trains a second network beside
the first (stage 1 with a discriminator) has another one, named after the
top-level entry of its parameters that holds that network. One loss serves
all groups: the task stops gradients where one network must not learn from
the loss of the other, so one backward pass gives each group its own
gradient. What differs between groups is here: rates, decay, clipping,
moments, and from which update on a group is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from varjax import optim
from varjax import spec as specs
from varjax.types import PyTree

# Every parameter that is in no other group.
MAIN = 'main'


@dataclasses.dataclass(frozen=True)
class Group:
  """How one group is optimised.

  Attributes:
    optim: its rates, decay, clipping and moments.
    warmup: updates of its warm-up.
    first: the update with which its training, and its schedule, begin.
  """

  optim: specs.OptimSpec
  warmup: int = 0
  first: int = 0


def split(params: PyTree, names: Collection[str]) -> dict[str, PyTree]:
  """The parameters of each group.

  Args:
    params: boxed or not; a dictionary when there is more than one group.
    names: of the groups, `MAIN` among them.

  Returns:
    {name: its part}; the part of MAIN keeps the structure of `params`.
  """
  if set(names) == {MAIN}:
    return {MAIN: params}
  parts = {name: params[name] for name in names if name != MAIN}
  parts[MAIN] = {k: v for k, v in params.items() if k not in parts}
  return parts


def join(parts: Mapping[str, PyTree]) -> PyTree:
  """Inverse of `split`."""
  if set(parts) == {MAIN}:
    return parts[MAIN]
  others = {name: part for name, part in parts.items() if name != MAIN}
  return {**parts[MAIN], **others}


def numbers_of(
  groups: Mapping[str, Group],
  *,
  total_steps: int,
  batch_size: int,
  real: Callable[[float], Any] = float,
) -> dict[str, optim.Numbers]:
  """The numbers of each group's optimiser; arguments as `optim.numbers_of`.

  Raises:
    ConfigError: an unknown schedule.
  """
  return {
    name: optim.numbers_of(
      group.optim,
      total_steps=max(total_steps - group.first, 1),
      batch_size=batch_size,
      warmup_steps=group.warmup,
      real=real,
    )
    for name, group in groups.items()
  }


def make_optimizer(
  groups: Mapping[str, Group],
  numbers: Mapping[str, optim.Numbers],
  active: Collection[str] | None = None,
) -> optax.GradientTransformation:
  """One transformation that runs each group's own optimiser on its part.

  Args:
    groups: by name, `MAIN` among them. A single group has the state of
      `optim.make_optimizer`; more have a dictionary of such states.
    numbers: of each group's optimiser, see `optim.make_optimizer`.
    active: groups that are trained now; of the others neither the weights
      nor the optimiser's state change, decay included. None is all.

  Raises:
    ConfigError: an unknown schedule.
  """
  made = {
    name: optim.make_optimizer(group.optim, numbers[name])
    for name, group in groups.items()
  }
  if set(made) == {MAIN}:
    return made[MAIN]
  trained = made.keys() if active is None else set(active)

  def init(params: PyTree) -> dict[str, Any]:
    parts = split(params, made)
    return {name: made[name].init(part) for name, part in parts.items()}

  def update(
    updates: PyTree, state: dict[str, Any], params: PyTree | None = None
  ) -> tuple[PyTree, dict[str, Any]]:
    if params is None:
      raise ValueError('weight decay needs the parameters')
    weights, moves, states = split(params, made), {}, {}
    for name, part in split(updates, made).items():
      if name in trained:
        moves[name], states[name] = made[name].update(
          part, state[name], weights[name]
        )
      else:
        moves[name] = jax.tree.map(jnp.zeros_like, part)
        states[name] = state[name]
    return join(moves), states

  return optax.GradientTransformation(init, update)


def rates(
  groups: Mapping[str, Group], step: int, *, total_steps: int, batch_size: int
) -> dict[str, float]:
  """Learning rate and decay of the update at `step`, for logging.

  Returns:
    'lr' and 'weight_decay' of MAIN; those of another group, once it is
    trained, with '_' and its name behind.
  """
  found = {}
  every = numbers_of(groups, total_steps=total_steps, batch_size=batch_size)
  for name, group in groups.items():
    if step < group.first:
      continue
    values = optim.hyperparameters(
      group.optim.schedule, every[name], step - group.first
    )
    suffix = '' if name == MAIN else f'_{name}'
    found |= {key + suffix: value for key, value in values.items()}
  return found

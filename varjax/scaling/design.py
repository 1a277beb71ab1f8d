"""A sweep worth its budget: identifiable before any of it is spent.

The first step of a study: choose sizes and training lengths, print the
Jacobian condition of the surface L(N, D) on them, and simulate the whole
study on an assumed law to see how wide its intervals will be. A ladder at
one training length is refused, because no analysis can repair it.
IsoFLOP sweeps: Hoffmann 2022 (arXiv 2203.15556), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math

import numpy as np

from varjax import errors, flops
from varjax.scaling import forms, identify, newton, optimum
from varjax.scaling.fit import problem_of
from varjax.scaling.forms import scale_of
from varjax.scaling.law import Law
from varjax.scaling.menu import Demand, Menu
from varjax.scaling.objective import Objective
from varjax.spec import RunSpec

# No published surface exists for VAR. N: the paper's L_mean(N), with E = 5
# (author, issue 23 of the official code); D: an exponent as in text models
# and a constant that balances both at 100 tokens per parameter for 1e9.
ASSUMED = {'E': 5.0, 'A': 52.5, 'alpha': 0.20, 'B': 0.0, 'beta': 0.28}
ASSUMED['B'] = (
  ASSUMED['alpha'] * ASSUMED['A'] * 1e9 ** -ASSUMED['alpha']
  / (ASSUMED['beta'] * 1e11 ** -ASSUMED['beta'])
)  # fmt: skip
_MIN_SIZES = 4


@dataclasses.dataclass(frozen=True)
class SizeList:
  """Named sizes that exist as experiments; a ladder for `menu.Menu`.

  Attributes:
    names: such as 'd16'.
    runs: their specs.
  """

  names: tuple[str, ...]
  runs: tuple[RunSpec, ...]

  @property
  def base(self) -> RunSpec:
    """Any of them: the tokenizer and data are the same."""
    return self.runs[0]

  @property
  def rungs(self) -> tuple[int, ...]:
    """Indices into names and runs."""
    return tuple(range(len(self.runs)))

  @property
  def rule(self) -> str:
    """The sizes in words."""
    return f'{self.names[0]} to {self.names[-1]}'

  def name(self, rung: int) -> str:
    """Name of one size."""
    return self.names[rung]

  def run(self, rung: int) -> RunSpec:
    """Spec of one size."""
    return self.runs[rung]


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of the sweep.

  Attributes:
    group: which budget (isoflop) or training length (ladder), from 0.
    name: of the size; steps: updates.
    n, d: as the fit will count them; flops: exact, of the whole run.
  """

  group: int
  name: str
  steps: int
  n: float
  d: float
  flops: float


@dataclasses.dataclass(frozen=True)
class Design:
  """A sweep and what to expect of it.

  Attributes:
    kind: 'isoflop' or 'ladder'.
    cells: the runs.
    condition: of the column-normalised Jacobian of L(N, D).
    expected: {quantity: (true value, lo, hi)}: 95 % of simulated studies.
    failed: share of simulated studies whose fit did not converge.
    noise: standard deviation of log loss in the simulation.
    target: budget of the extrapolated optimum in `expected`.
    warnings: what to be careful about.
  """

  kind: str
  cells: tuple[Cell, ...]
  condition: float
  expected: dict[str, tuple[float, float, float]]
  failed: float
  noise: float
  target: float
  warnings: tuple[str, ...]

  @property
  def flops(self) -> float:
    """Cost of all runs."""
    return sum(c.flops for c in self.cells)


def assumed_law(params: Mapping[str, float] | None = None) -> Law:
  """The law that a design is judged on; N counts the body."""
  return Law(
    name='assumed', form='chinchilla', params=dict(params or ASSUMED),
    draws={}, sigma_log=0.0, n_convention='body', assumed=False, largest={},
    y='L_mean',
  )  # fmt: skip


def isoflop(
  law: Law, sizes: SizeList, budget: float, groups: int = 5, per_group: int = 6,
  span: float = 30.0, spread: float = 6.0,
) -> list[Cell]:  # fmt: skip
  """Several sizes at each of several budgets that cost `budget` together.

  Args:
    law: the assumed surface; its optimum is the centre of each group.
    sizes: what can be trained.
    budget: FLOPs of the whole sweep.
    groups, per_group: budgets, and sizes at each.
    span: the largest budget over the smallest.
    spread: sizes reach from N* / spread to N* spread.

  Raises:
    DesignRefused: a budget reaches fewer than four sizes.
  """
  _check_positive(budget=budget, span=span - 1, spread=spread - 1)
  if groups < 2 or per_group < _MIN_SIZES:
    raise errors.ConfigError(
      f'an isoFLOP sweep needs 2 or more budgets and {_MIN_SIZES} or more '
      f'sizes each, not {groups} and {per_group}'
    )
  shares = np.geomspace(1 / span, 1.0, groups)
  top = budget / (per_group * shares.sum())
  menu = Menu(law, sizes)
  cells: list[Cell] = []
  for group, flops_each in enumerate((top * shares).tolist()):
    losses = menu.losses(Demand(flops_each))
    best = menu.n[int(np.argmin(losses))]
    targets = np.geomspace(best / spread, best * spread, per_group)
    picked = _nearest(menu.n, targets)
    images = menu.images(Demand(flops_each))
    made = [_cell(menu, sizes, group, i, images[i]) for i in picked]
    made = [c for c in made if c.steps > 0]
    if len(made) < _MIN_SIZES:
      raise identify.TooFewPoints(
        f'a budget of {flops_each:.2e} FLOPs reaches {len(made)} sizes of '
        f'{sizes.rule} within a factor of {spread:g} of the optimum '
        f'({best:.2g} parameters), {_MIN_SIZES} are needed',
        'offer smaller or more sizes (--sizes), fewer budgets, a smaller '
        '--span, or a larger --budget',
      )
    cells += made
  return cells


def ladder(
  law: Law, sizes: SizeList, budget: float, lengths: int = 3,
  span: float = 16.0,
) -> list[Cell]:  # fmt: skip
  """Every size at several training lengths, for `budget` in all.

  Args:
    law: gives the convention of N.
    sizes: all are trained.
    budget: FLOPs of the whole sweep.
    lengths: training lengths; one is refused.
    span: the longest over the shortest.

  Raises:
    ConstantInput: one length only: D would be constant.
    TooFewPoints: too few sizes, or a run shorter than an update.
  """
  _check_positive(budget=budget, span=span - 1)
  if lengths < 2:
    raise identify.ConstantInput(
      'a ladder at one training length cannot identify the data term of '
      'L(N, D)',
      'use --lengths 2 or more, or an isoFLOP sweep',
    )
  if len(sizes.rungs) < _MIN_SIZES:
    raise identify.TooFewPoints(
      f'{len(sizes.rungs)} sizes do not determine an exponent',
      f'offer {_MIN_SIZES} or more with --sizes',
    )
  menu = Menu(law, sizes)
  shares = np.geomspace(1 / span, 1.0, lengths)
  longest = budget / (menu.train.sum() * shares.sum())
  cells = [
    _cell(menu, sizes, group, i, longest * share)
    for group, share in enumerate(shares.tolist())
    for i in sizes.rungs
  ]
  if any(c.steps < 1 for c in cells):
    raise identify.TooFewPoints(
      f'a budget of {budget:.2e} FLOPs does not pay for one update of every '
      'run',
      'raise --budget, or lower --lengths or --span',
    )
  return cells


def judge(
  kind: str, cells: list[Cell], law: Law, noise: float = 0.005,
  studies: int = 400, seed: int = 0, target: float | None = None,
) -> Design:  # fmt: skip
  """Condition, cost and simulated intervals of a sweep.

  Args:
    kind: for the record.
    cells: the runs.
    law: the surface that the simulated losses follow.
    noise: standard deviation of log loss between runs.
    studies: how many times the sweep is simulated and refitted.
    seed: of the noise.
    target: budget at which N* is extrapolated; 10 times the largest run.

  Raises:
    FitRefused: the surface is not identified by these runs.
  """
  _check_positive(noise=noise)
  form = forms.CHINCHILLA
  columns = {
    'n': np.array([c.n for c in cells]), 'd': np.array([c.d for c in cells]),
  }  # fmt: skip
  identify.check_design(form, columns, identify.Gate())
  truth = np.asarray(law.loss(columns['n'], columns['d']))
  scale = dataclasses.replace(
    scale_of(columns, truth), y=float(np.mean(np.log(truth)))
  )
  condition = identify.design_condition(form, columns, law.params, scale)
  rng = np.random.default_rng(seed)
  logs = np.log(truth)[None] - scale.y
  logs = logs + noise * rng.standard_normal((studies, len(cells)))
  problem = problem_of(
    form, columns, truth, Objective('huber'), np.ones(len(cells)), scale
  )
  problem = dataclasses.replace(problem, y=np.exp(logs))
  starts = np.repeat(form.to_theta(law.params, scale)[None], studies, axis=0)
  found = newton.minimise(problem, starts)
  good = found.converged & np.isfinite(found.value)
  target = target or 10 * max(c.flops for c in cells)
  expected = {}
  if good.sum() >= 20:
    draws = form.to_params(found.theta[good], scale)
    expected = _expected(law.params, draws, target, _flops_per_nd(cells))
  return Design(
    kind=kind,
    cells=tuple(cells),
    condition=condition,
    expected=expected,
    failed=float(1 - good.mean()),
    noise=noise,
    target=target,
    warnings=tuple(_warnings(kind, cells, law, float(1 - good.mean()))),
  )


def _expected(
  params: Mapping[str, float], draws: Mapping[str, np.ndarray],
  target: float, k: float,
) -> dict[str, tuple[float, float, float]]:  # fmt: skip
  best = {**params, 'a': optimum.exponents(params)['a']}
  many = {**draws, 'a': optimum.exponents(draws)['a']}
  best['N* at target'] = optimum.optimum(params, target, k)[0]
  many['N* at target'] = optimum.optimum(draws, target, k)[0]
  out = {}
  for name in ('E', 'alpha', 'beta', 'a', 'N* at target'):
    values = np.asarray(many[name])
    low, high = np.quantile(values[np.isfinite(values)], [0.025, 0.975])
    out[name] = (float(best[name]), float(low), float(high))
  return out


def _flops_per_nd(cells: list[Cell]) -> float:
  """k of C = k N D at the largest run."""
  top = max(cells, key=lambda c: c.flops)
  return top.flops / (top.n * top.d)


def _nearest(offered: np.ndarray, targets: np.ndarray) -> list[int]:
  """Indices of the offered sizes nearest to the targets, each once."""
  found = {
    int(np.argmin(np.abs(np.log(offered) - math.log(t)))) for t in targets
  }
  return sorted(found)


def _cell(
  menu: Menu, sizes: SizeList, group: int, i: int, images: float
) -> Cell:
  run = sizes.run(i)
  steps = int(images // run.batch_size)
  seen = steps * run.batch_size
  work = flops.train_flops_per_image(run.model, run.tokenizer).total
  return Cell(
    group=group,
    name=sizes.name(i),
    steps=steps,
    n=float(menu.n[i]),
    d=float(seen * menu.positions),
    flops=float(seen * work),
  )


def _warnings(
  kind: str, cells: list[Cell], law: Law, failed: float
) -> list[str]:
  found = []
  if failed > 0.05:
    found.append(
      f'{100 * failed:.0f} % of the simulated fits did not converge: the '
      'intervals are too narrow'
    )
  if kind != 'isoflop':
    return found
  for group in sorted({c.group for c in cells}):
    members = sorted((c for c in cells if c.group == group), key=lambda c: c.n)
    losses = [float(law.loss(c.n, c.d)) for c in members]
    at = int(np.argmin(losses))
    if at in (0, len(members) - 1):
      found.append(
        f'budget {members[at].flops:.2e}: the assumed minimum is at the edge '
        f'of the sizes ({members[at].name}); offer '
        f'{"smaller" if at == 0 else "larger"} ones'
      )
  return found


def _check_positive(**values: float) -> None:
  for name, value in values.items():
    if not (math.isfinite(value) and value > 0):
      raise errors.ConfigError(f'{name} is too small or not finite')

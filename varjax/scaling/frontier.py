"""Approach 1: the lower envelope of training curves, L(C) and N*(C).

Hoffmann 2022, section 3.1, and VAR, section 4.2 (C_min is the Pareto
frontier of the training curves). The points of an envelope come from few
runs and are not independent: the bootstrap resamples runs and takes the
envelope anew.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from varjax.scaling import describe, fit, identify
from varjax.scaling.bootstrap import Bootstrap, minimiser
from varjax.scaling.fit import Fit, problem_of
from varjax.scaling.forms import INF, Form
from varjax.scaling.options import Options
from varjax.scaling.study import Study, conventions_of


@dataclasses.dataclass(frozen=True)
class Frontier:
  """An envelope on a grid of compute.

  Attributes:
    c: [g] grid, FLOP.
    losses: [r, g] each run's loss on the grid, inf where it has none.
    run_ids: [r]; n: [r] parameters.
    owner: [g] index of the run with the lowest loss.
    used: [g] the part that is a frontier: from the first hand-over on.
  """

  c: np.ndarray
  losses: np.ndarray
  run_ids: list[str]
  n: np.ndarray
  owner: np.ndarray
  used: np.ndarray

  @property
  def loss(self) -> np.ndarray:
    """[g] the envelope."""
    return self.losses.min(axis=0)

  @property
  def runs_on_it(self) -> int:
    """How many runs the used part of the envelope is made of."""
    return len(set(self.owner[self.used].tolist()))

  def as_dict(self) -> dict:
    """`frontier` of the result file."""
    return {
      'c': self.c, 'loss': self.loss,
      'run_id': [self.run_ids[i] for i in self.owner],
      'n': self.n[self.owner], 'used': self.used,
    }  # fmt: skip


def envelope(
  curves: pd.DataFrame, per_decade: int = 16, least_runs: int = 3
) -> Frontier:
  """The envelope of training curves.

  Args:
    curves: run_id, n, c, y: one row per evaluation of a run; losses between
      two evaluations are interpolated in log-log.
    per_decade: grid points per decade of compute.
    least_runs: runs that must hold a part of the envelope.

  Returns:
    The frontier.

  Raises:
    TooFewPoints: fewer runs than that with two evaluations or more, or on
      the envelope.
  """
  curves = curves[(curves['c'] > 0) & (curves['y'] > 0)]
  groups = [
    (run, g.sort_values('c').drop_duplicates('c'))
    for run, g in curves.groupby('run_id', sort=True)
  ]
  groups = [(run, g) for run, g in groups if len(g) >= 2]
  if len(groups) < least_runs:
    raise identify.TooFewPoints(
      f'the frontier needs training curves of {least_runs} runs or more, but '
      f'there are {len(groups)}',
      'train more sizes, with two or more evaluations each',
    )
  low = min(float(g['c'].iloc[0]) for _, g in groups)
  high = max(float(g['c'].iloc[-1]) for _, g in groups)
  size = max(int(np.ceil(np.log10(high / low) * per_decade)), 8)
  grid = np.linspace(np.log(low), np.log(high), size)
  losses = np.full((len(groups), size), INF)
  for i, (_, g) in enumerate(groups):
    c, y = np.log(g['c'].to_numpy(float)), np.log(g['y'].to_numpy(float))
    # The ends of a curve belong to it in spite of rounding.
    inside = (grid >= c[0] - 1e-9) & (grid <= c[-1] + 1e-9)
    losses[i, inside] = np.exp(np.interp(grid[inside], c, y))
  covered = np.isfinite(losses).any(axis=0)
  grid, losses = grid[covered], losses[:, covered]
  owner = losses.argmin(axis=0)
  # Before another run takes over there is one curve, not a frontier.
  changes = np.flatnonzero(np.diff(owner) != 0)
  used = np.zeros(len(grid), bool)
  if len(changes):
    used[changes[0] :] = True
  found = Frontier(
    c=np.exp(grid), losses=losses, run_ids=[str(r) for r, _ in groups],
    n=np.array([float(g['n'].iloc[0]) for _, g in groups]),
    owner=owner, used=used,
  )  # fmt: skip
  if found.runs_on_it < least_runs:
    raise identify.TooFewPoints(
      f'only {found.runs_on_it} of {len(groups)} runs touch the lower '
      f'envelope of the training curves, {least_runs} are needed',
      'evaluate more often, or train sizes that overlap in compute',
    )
  return found


def bootstrap_runs(
  given: Fit,
  frontier: Frontier,
  replicates: int,
  seed: int,
  backend: str = 'numpy',
) -> Bootstrap:
  """Refits of L(C) on envelopes of resampled runs.

  Args:
    given: of a 1-D form on (frontier.c, frontier.loss)[used].
    frontier: see envelope.
    replicates: how many.
    seed: of the resampling.
    backend: see bootstrap.BACKENDS.

  Returns:
    Refits of kind `clusters`; resamples in which fewer than three runs are
    left count as failed.
  """
  rng = np.random.default_rng(seed)
  runs = len(frontier.run_ids)
  picked = rng.integers(0, runs, (replicates, runs))
  losses = frontier.losses[:, frontier.used]
  y = losses[picked].min(axis=1)
  weights = np.isfinite(y).astype(float)
  several = np.array([len(set(row)) >= 3 for row in picked.tolist()])
  problem = problem_of(
    given.form, {'x': frontier.c[frontier.used]},
    np.where(weights > 0, y, 1.0), given.objective, weights, given.scale,
  )  # fmt: skip
  starts = np.repeat(given.theta[None], replicates, axis=0)
  optimum = minimiser(backend)(problem, starts)
  good = optimum.converged & np.isfinite(optimum.value) & several
  sigma = np.full(int(good.sum()), np.nan_to_num(given.sigma_log))
  return Bootstrap(
    given, 'clusters', optimum.theta[good], sigma, int((~good).sum()), seed,
    backend, groups=runs,
  )  # fmt: skip


def size_exponent(frontier: Frontier) -> float:
  """a of N*(C) ~ C^a: a log-log line through the owners of the envelope."""
  x = np.log(frontier.c[frontier.used])
  n = np.log(frontier.n[frontier.owner[frontier.used]])
  return float(np.polyfit(x, n, 1)[0])


def study_envelope(
  frontier: Frontier,
  targets: pd.DataFrame,
  form: Form,
  options: Options,
  name: str,
) -> Study:
  """L(C) fitted to an envelope, as an entry of the result file.

  Args:
    frontier: of the runs that are fitted.
    targets: held-out runs, predicted at the end of their training; the
      frontier is a lower bound for a run that was not compute-optimal.
    form: a 1-D form.
    options: of the analysis.
    name: of the entry.

  Raises:
    FitRefused: fewer runs on the envelope than the form needs.
  """
  used = frontier.used
  c, y = frontier.c[used], frontier.loss[used]
  found = fit.fit(
    form, {'x': c}, y, options.objective(form), starts=options.starts,
    seed=options.seed, force=options.force, distinct=frontier.runs_on_it,
  )  # fmt: skip
  boot = None
  if options.bootstrap:
    boot = bootstrap_runs(
      found, frontier, options.bootstrap, options.seed,
      options.bootstrap_backend,
    )  # fmt: skip
  owners = frontier.owner[used]
  frame = pd.DataFrame(
    {
      'run_id': [frontier.run_ids[i] for i in owners],
      'name': [frontier.run_ids[i] for i in owners],
      'n': frontier.n[owners], 'd': np.nan, 'c': c, 'y': y,
    }
  )  # fmt: skip
  frame = pd.concat([frame, targets[list(frame.columns)]], ignore_index=True)
  inside = np.arange(len(frame)) < len(c)
  entry = describe.describe(
    found, boot, name=name, x_key='c', y_name=options.metric,
    y_unit='nats per token', frame=frame, used=inside,
    why=[None if i else 'holdout' for i in inside],
    conventions=conventions_of(options),
  )  # fmt: skip
  entry['method'] = 'envelope'
  entry['warnings'].append(
    f'{len(c)} points of the envelope come from {frontier.runs_on_it} runs; '
    'intervals are over runs'
  )
  return Study(found, boot, entry)

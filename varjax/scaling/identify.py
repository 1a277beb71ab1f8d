"""Refusals: what a table of runs cannot tell, said before it is fitted.

Each refusal is a typed error with a reason and what to run next. `force`
lets the fit go on, and the refusal stays in its result. The checks follow
the failures of published analyses: D proportional to N (five parameters
printed from a rank-4 design), a fit that equals its start, minima at the
edge of a budget, runs with different losses mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import re

import numpy as np
import pandas as pd

from varjax import errors
from varjax.scaling.forms import Columns, Form, Scale, SumForm, scale_of

# Column-normalised Jacobian in centred units; the Chinchilla runs have 33.
MAX_CONDITION = 3e3
MIN_AGREEING = 3


class Refusal(errors.FitRefused):
  """A fit that the data cannot support.

  Attributes:
    reason: what is wrong, with the numbers.
    advice: what to run or to ask for instead.
  """

  def __init__(self, reason: str, advice: str):
    super().__init__(f'{reason}; {advice}')
    self.reason, self.advice = reason, advice

  def as_dict(self, forced: bool = True) -> dict:
    """For the result file."""
    return {
      'type': type(self).__name__, 'reason': self.reason,
      'next': self.advice, 'forced': forced,
    }  # fmt: skip


class TooFewPoints(Refusal):
  """Fewer runs, or distinct sizes or budgets, than the form needs."""


class Unidentifiable(Refusal):
  """The design leaves a direction of the parameters undetermined."""


class ConstantInput(Unidentifiable):
  """An input has one value only, or nearly."""


class TiedInputs(Unidentifiable):
  """One input is a power of the other: D proportional to N."""


class EdgeMinimum(Refusal):
  """A budget's minimum lies at the edge of its runs."""


class WrongCurvature(Refusal):
  """A budget's parabola opens downwards, or a loss rises with its input."""


class MixedRuns(Refusal):
  """Runs with different loss kinds, tokenizers or evaluation sets."""


class NotALoss(Refusal):
  """FID or a like score was given as the loss."""


class BadValues(Refusal):
  """A value that is missing, not finite or not positive."""


class FewStartsAgree(Refusal):
  """Fewer than three starts reached the best optimum."""


class OptimumIsStart(Refusal):
  """The reported optimum is one of its own starts: nothing was fitted."""


class Gate:
  """Raises refusals, or keeps them when forced."""

  def __init__(self, force: bool = False):
    self.force = force
    self.kept: list[Refusal] = []

  def refuse(self, refusal: Refusal) -> None:
    """Raises the refusal, or keeps it.

    Raises:
      FitRefused: the gate is not forced.
    """
    if not self.force:
      raise refusal
    self.kept.append(refusal)


def check_loss_name(name: str, gate: Gate) -> None:
  """Refuses FID-like scores: they are not a loss and do not follow its law.

  Fluid (2410.13863) and others find loss and FID to follow other trends.
  """
  words = re.split(r'[^a-z0-9]+', name.lower())
  scores = {'fid', 'rfid', 'gfid', 'sfid', 'fd', 'kid', 'is', 'inception'}
  if scores & set(words):
    gate.refuse(
      NotALoss(
        f'{name!r} is a score of samples, not a loss: it depends on the '
        'sampler and its settings',
        'fit val_loss_nats_per_token, and show FID against the fitted loss',
      )
    )


def check_unmixed(table: pd.DataFrame, gate: Gate) -> None:
  """Refuses runs that differ in what their loss means."""
  for column in ('loss_kind', 'tokenizer_id', 'eval_set'):
    if column not in table:
      continue
    values = sorted({str(v) for v in table[column].dropna()})
    if len(values) > 1:
      gate.refuse(
        MixedRuns(
          f'the runs mix {len(values)} values of {column}: '
          f'{", ".join(v[:16] for v in values[:3])}',
          f'fit one at a time: --filter {column}={values[0]}',
        )
      )


def check_values(columns: Columns, y: np.ndarray, gate: Gate) -> np.ndarray:
  """Refuses values that have no logarithm; returns which rows are usable."""
  good = np.isfinite(y) & (y > 0)
  for name, values in columns.items():
    good &= np.isfinite(values) & (values > 0)
    if not (np.isfinite(values) & (values > 0)).all():
      gate.refuse(
        BadValues(
          f'column {name!r} holds a value that is missing or not positive',
          'drop those rows with --filter, or correct the table',
        )
      )
  if not (np.isfinite(y) & (y > 0)).all():
    gate.refuse(
      BadValues(
        'the loss holds a value that is missing, not finite or not positive',
        'drop the diverged runs; a reducible loss must keep its floor below '
        'every measurement',
      )
    )
  return good


def check_floor(form: Form, y: np.ndarray, gate: Gate) -> None:
  """Refuses a fixed floor that measurements lie below."""
  floor = form.pinned.get('E', 0.0)
  if 'E' not in form.names and floor >= y.min():
    gate.refuse(
      BadValues(
        f'the fixed floor {floor:g} is not below the smallest loss {y.min():g}',
        'give the entropy of your own tokenizer with --floor, or fit it: '
        '--form power_floor',
      )
    )


def check_design(
  form: Form, columns: Columns, gate: Gate, distinct: int | None = None
) -> None:
  """Refuses designs on which the form is not determined.

  Args:
    form: what will be fitted.
    columns: its inputs, [n] each.
    gate: raises or keeps.
    distinct: independent runs when rows are checkpoints of fewer runs.
  """
  count = len(columns[form.inputs[0]]) if distinct is None else distinct
  needed = len(form.names) + 1
  if count < needed:
    gate.refuse(
      TooFewPoints(
        f'{form.name} has {len(form.names)} parameters and needs at least '
        f'{needed} runs, but there are {count}',
        'train more sizes, or ask for a form with fewer parameters '
        '(--form power)',
      )
    )
  for name in form.inputs:
    _check_spread(form, name, columns[name], gate)
  if set(form.inputs) >= {'n', 'd'} and isinstance(form, SumForm):
    _check_tied(form, columns, gate)


def _check_spread(form: Form, name: str, values: np.ndarray, gate) -> None:
  logs = np.log(values)
  spread = float(logs.max() - logs.min()) if len(logs) else 0.0
  levels = count_levels(logs)
  if spread < np.log(1.5) or levels < 2:
    gate.refuse(
      ConstantInput(
        f'{name} spans a factor of {np.exp(spread):.3g} only: its exponent '
        'is not determined',
        f'run sizes that differ in {name} by a factor of 10 or more'
        + (
          ', or fit the other input alone (--form power_floor)'
          if len(form.inputs) > 1
          else ''
        ),
      )
    )
  elif len(form.inputs) == 1 and levels < min(len(form.names), 4):
    gate.refuse(
      TooFewPoints(
        f'{form.name} needs {len(form.names)} distinct values of {name}, '
        f'but there are {levels}',
        'train more sizes',
      )
    )


def _check_tied(form: SumForm, columns: Columns, gate: Gate) -> None:
  n, d = np.log(columns['n']), np.log(columns['d'])
  if np.ptp(n) < 1e-9 or np.ptp(d) < 1e-9:
    return
  slope, _ = np.polyfit(n, d, 1)
  left = d - np.polyval(np.polyfit(n, d, 1), n)
  condition = design_condition(form, columns)
  if float(np.std(left)) < 0.02:
    gate.refuse(
      TiedInputs(
        f'D is proportional to N^{slope:.2f} in all {len(n)} runs: the '
        f'terms of N and D cannot be told apart (Jacobian condition '
        f'{condition:.2g})',
        'add runs at two or more token counts per size (an isoFLOP sweep), '
        'or fit one input alone: --form power_floor',
      )
    )
  elif condition > MAX_CONDITION:
    gate.refuse(
      Unidentifiable(
        f'the design is nearly singular: Jacobian condition {condition:.2g}, '
        f'the limit is {MAX_CONDITION:.0g}',
        'widen the range of D at fixed N, or fit one input alone',
      )
    )


def design_condition(
  form: SumForm,
  columns: Columns,
  params: Mapping[str, float] | None = None,
  scale: Scale | None = None,
) -> float:
  """Condition number of the column-normalised Jacobian of a design.

  Needs no measurement, so a sweep can be judged before it is run.

  Args:
    form: a sum of power laws.
    columns: the inputs of the planned or finished runs, [n] each.
    params: where to take the Jacobian, in the user's units; without it, at
      equal shares and exponents .34, the hardest common case.
    scale: needed with params; the units of the loss.

  Returns:
    The ratio of the largest to the smallest singular value; inf when the
    design is singular.
  """
  if params is None:
    y = np.ones(len(columns[form.inputs[0]]))
    scale = scale_of(columns, y)
    theta = np.concatenate(
      [
        np.full(len(form.coefs), -np.log(max(len(form.coefs), 1))),
        np.full(len(form.exponents), 0.34),
      ]
    )
  else:
    if scale is None:
      scale = Scale(scale_of(columns, np.ones(1)).x, 0.0)
    theta = form.to_theta(params, scale)
  _, jacobian = form.bind(columns, scale).jacobian(theta[None])
  return condition_of(jacobian[0])[0]


def condition_of(jacobian: np.ndarray) -> tuple[float, int]:
  """(condition, rank) of a Jacobian [n, p] with its columns normalised."""
  norms = np.linalg.norm(jacobian, axis=0)
  if not np.isfinite(jacobian).all() or (norms == 0).any():
    return float('inf'), int((norms > 0).sum())
  values = np.linalg.svd(jacobian / norms, compute_uv=False)
  rank = int((values > values[0] * 1e-10).sum())
  if len(jacobian) < jacobian.shape[1] or values[-1] <= values[0] * 1e-15:
    return float('inf'), rank
  return float(values[0] / values[-1]), rank


def count_levels(logs: np.ndarray, apart: float = 0.02) -> int:
  """Distinct values of a logarithm, closer ones counted once."""
  ordered = np.sort(np.asarray(logs, float))
  return int(1 + (np.diff(ordered) > apart).sum()) if len(ordered) else 0


@dataclasses.dataclass(frozen=True)
class StartReport:
  """How the starts of a fit ended; see `check_starts`."""

  count: int
  agreeing: int
  nearest: float


def check_starts(report: StartReport, gate: Gate) -> None:
  """Refuses an optimum that few starts found, or that is a start itself."""
  if report.count >= MIN_AGREEING and report.agreeing < MIN_AGREEING:
    gate.refuse(
      FewStartsAgree(
        f'only {report.agreeing} of {report.count} starts reached the best '
        f'optimum; at least {MIN_AGREEING} must agree',
        'raise --starts, or fit a form with fewer parameters',
      )
    )
  if report.nearest < 1e-9:
    gate.refuse(
      OptimumIsStart(
        'the optimum equals one of its starting points: the optimiser did '
        'not move',
        'raise --starts or loosen --delta, and check the units',
      )
    )

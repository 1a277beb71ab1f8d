"""How much the answer depends on choices that nobody defends.

The width of the Huber loss, how many outliers are dropped, the objective
and the form are varied one at a time. On the Chinchilla runs delta moves
the exponent a by .001 and the outlier rule by .05: the table shows which
choice matters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from varjax import errors
from varjax.scaling import fit as fit_lib
from varjax.scaling import forms, identify, nonlinear, optimum, table
from varjax.scaling.fit import Fit
from varjax.scaling.forms import Form
from varjax.scaling.objective import Objective

DELTAS = (1e-4, 1e-3, 1e-2, 1e-1)


def others_of(form: Form) -> tuple[Form, ...]:
  """The other forms of the same inputs, floors free."""
  every = (
    forms.POWER, forms.POWER_FLOOR, nonlinear.BNSL, forms.CHINCHILLA,
    forms.GADRE, nonlinear.KAPLAN,
  )  # fmt: skip
  return tuple(
    f for f in every if f.inputs == form.inputs and f.name != form.name
  )


def sensitivity(
  given: Fit,
  *,
  drops: tuple[int, ...] = (1, 5),
  deltas: tuple[float, ...] = DELTAS,
  others: tuple[Form, ...] = (),
  starts: int = 40,
) -> list[dict[str, Any]]:
  """Refits under other choices.

  Args:
    given: the fit as it was made.
    drops: how many further highest losses to drop.
    deltas: of the Huber loss.
    others: forms of the same inputs.
    starts: of each refit.

  Returns:
    One row per choice: choice, params, a (surfaces), prediction (at the
    largest inputs, the loss), refused (null, or why).
  """
  rows = []
  top = {k: np.array([v.max()]) for k, v in given.columns.items()}

  def add(choice: str, form: Form, objective: Objective, keep) -> None:
    row: dict[str, Any] = {
      'choice': choice, 'params': None, 'a': None, 'prediction': None,
      'refused': None,
    }  # fmt: skip
    try:
      found = fit_lib.fit(
        form, {k: v[keep] for k, v in given.columns.items()}, given.y[keep],
        objective, weights=given.weights[keep], starts=starts,
        seed=given.seed,
      )  # fmt: skip
    except errors.FitRefused as refusal:
      rows.append({**row, 'refused': str(refusal)})
      return
    row['params'] = found.params
    if {'alpha', 'beta', 'A', 'B'} <= set(found.params):
      row['a'] = float(optimum.exponents(found.params)['a'])
    row['prediction'] = float(found.predict(top)[0])
    rows.append(row)

  every = np.ones(len(given.y), bool)
  add('as fitted', given.form, given.objective, every)
  for delta in deltas:
    objective = Objective('huber', delta)
    if objective != given.objective:
      add(f'huber, delta {delta:g}', given.form, objective, every)
  for kind in ('log', 'linear'):
    if kind != given.objective.kind:
      add(f'least squares, {kind}', given.form, Objective(kind), every)
  for count in drops:
    keep = table.drop_highest(given.y, count)
    add(f'{count} highest dropped', given.form, given.objective, keep)
  for form in others:
    # A bend cannot be told from few values of an input.
    levels = [identify.count_levels(np.log(v)) for v in given.columns.values()]
    if min(levels) > len(form.names) or len(form.inputs) > 1:
      add(f'form {form.name}', form, given.objective, every)
  return rows

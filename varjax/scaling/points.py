"""The points of a fit: the rows of a table that it uses, in one order.

Between a table and an optimiser. Every method makes the same checks of its
data first (identify.py), and sees the points in an order of their values, so
that floating-point sums do not depend on how the table was sorted.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import numpy as np

from varjax.scaling import identify
from varjax.scaling.forms import Columns, Form


@dataclasses.dataclass(frozen=True)
class Points:
  """Usable rows.

  Attributes:
    columns: inputs of the form by name, [n] each, in the user's units.
    y: losses [n].
    weights: of the points, [n].
    order: [n] which of the given rows each point is.
  """

  columns: Columns
  y: np.ndarray
  weights: np.ndarray
  order: np.ndarray


def checked(
  form: Form,
  columns: Mapping[str, np.ndarray],
  y: np.ndarray,
  gate: identify.Gate,
  *,
  weights: np.ndarray | None = None,
  distinct: int | None = None,
) -> Points:
  """The points that a form is fitted to.

  Args:
    form: what will be fitted.
    columns: inputs by name, [m] each, positive, in the user's units.
    y: losses [m], positive.
    gate: raises or keeps refusals.
    weights: of the rows, [m]; 1 by default.
    distinct: independent runs, when the rows are checkpoints of fewer.

  Raises:
    FitRefused: values without a logarithm, fewer than two points, or a
      design that does not determine the form; see identify.py.
  """
  columns = {k: np.asarray(columns[k], float) for k in form.inputs}
  y = np.asarray(y, float)
  weights = np.ones(len(y)) if weights is None else np.asarray(weights, float)
  order = np.flatnonzero(identify.check_values(columns, y, gate))
  keys = [weights[order], y[order], *(v[order] for v in columns.values())]
  order = order[np.lexsort(keys)]
  found = Points(
    columns={k: v[order] for k, v in columns.items()},
    y=y[order],
    weights=weights[order],
    order=order,
  )
  if len(order) < 2:
    raise identify.TooFewPoints(
      f'{form.name} needs at least {len(form.names) + 1} runs, but there are '
      f'{len(order)}', 'train more sizes',
    )  # fmt: skip
  identify.check_floor(form, found.y, gate)
  identify.check_design(form, found.columns, gate, distinct)
  return found

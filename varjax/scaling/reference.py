"""Published scaling laws, as cited data with units.

For plots and comparisons. `certainty` says how each number was obtained:
`read` in the public source, `reproduced` by fitting the public data with
this package, or `unverified`, quoted from notes and to be checked before
it is quoted again. Conflicts between a paper's own laws are in `notes`.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import importlib.resources
import json
from typing import Any

import numpy as np

from varjax import errors


@dataclasses.dataclass(frozen=True)
class Law:
  """One published law.

  Attributes:
    id: key, e.g. `var_l_mean_n`.
    source: paper and equation or table.
    quantity: what it predicts; unit: of it.
    form: `power` (y = E + (k x)^exponent), `coefficient` (y = E + A
      x^exponent) or `chinchilla`.
    params: of the form, for x in `x_unit` times 1.
    x: n, d, c, or n,d; x_unit: FLOP, parameters ...; x_scale: what one of
      the paper's units is in it (1e9 where the paper counts billions).
    certainty: read, reproduced or unverified.
    notes: conventions and conflicts.
    domain: what the tokens are.
    metric: what is predicted, as `table.METRICS`, or N_opt, D_opt, FID.
    floor: `none`, `fitted`, or `fixed` at fixed_floor, which is subtracted.
    counts: what n or c of the law is, as the keys of `table.N_CONVENTIONS`
      and the text of a FLOP convention; '' for a surface.
    disputed: a conflict with other numbers of its own paper is in `notes`.
  """

  id: str
  source: str
  quantity: str
  unit: str
  form: str
  params: Mapping[str, float]
  x: str
  x_unit: str
  x_scale: float
  certainty: str
  notes: str
  domain: str
  metric: str
  floor: str
  fixed_floor: float | None
  counts: str
  disputed: bool

  def predict(self, *inputs: Any) -> np.ndarray:
    """The law at inputs in `x_unit` (not the paper's scaled unit)."""
    p = self.params
    if self.form == 'chinchilla':
      n, d = (np.asarray(v, float) for v in inputs)
      return p['E'] + p['A'] * n ** -p['alpha'] + p['B'] * d ** -p['beta']
    x = np.asarray(inputs[0], float) / self.x_scale
    floor = p.get('E', 0.0)
    if self.form == 'power':
      return floor + (p['k'] * x) ** p['exponent']
    return floor + p['A'] * x ** p['exponent']


@functools.cache
def laws() -> dict[str, Law]:
  """All laws by id."""
  text = (
    importlib.resources.files('varjax.scaling')
    .joinpath('laws.json')
    .read_text()
  )
  return {row['id']: Law(**row) for row in json.loads(text)}


def law(name: str) -> Law:
  """One law.

  Raises:
    ConfigError: an unknown id.
  """
  found = laws()
  if name not in found:
    raise errors.ConfigError(
      f'no published law {name!r}; use one of {", ".join(sorted(found))}'
    )
  return found[name]

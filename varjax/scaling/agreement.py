"""The exponent of N*(C) by every method that the data allow, side by side.

Methods differ by .01 to .05 on one data set: a single number hides that.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from varjax.scaling import frontier as frontier_lib
from varjax.scaling.options import Options
from varjax.scaling.study import Study


def compare(
  studies: list[Study],
  frame: pd.DataFrame,
  edge: frontier_lib.Frontier | None,
  options: Options,
) -> dict[str, Any]:
  """{agreement, agreement_spread, isoflop} of the result file."""
  del frame, options
  rows: list[dict[str, Any]] = []
  for study in studies:
    exponent = study.entry['derived'].get('a')
    if exponent is None:
      continue
    found = study.entry['intervals'].get('a') or {}
    rows.append(
      {
        'method': f'parametric ({study.fit.method})', 'a': exponent,
        'lo': found.get('lo'), 'hi': found.get('hi'),
        'note': study.entry['name'],
      }
    )  # fmt: skip
  if edge is not None and edge.runs_on_it >= 3:
    rows.append(
      {
        'method': 'envelope', 'a': frontier_lib.size_exponent(edge),
        'lo': None, 'hi': None,
        'note': f'{edge.runs_on_it} runs on the frontier',
      }
    )  # fmt: skip
  values = [row['a'] for row in rows]
  spread = max(values) - min(values) if len(values) > 1 else None
  return {'agreement': rows, 'agreement_spread': spread, 'isoflop': None}

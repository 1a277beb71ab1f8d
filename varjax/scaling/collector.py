"""The fits of one analysis, its refusals, and the result that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from varjax.scaling import agreement, checklist, frontier, identify, result
from varjax.scaling.options import Options
from varjax.scaling.study import Study


class Collector:
  """Fits that worked, and refusals of those that did not."""

  def __init__(self):
    self.studies: list[Study] = []
    self.refused: list[dict[str, Any]] = []
    self.first: identify.Refusal | None = None

  def attempt(self, name: str, make: Callable[[], Study]) -> Study | None:
    """Keeps the study, or its refusal."""
    try:
      found = make()
    except identify.Refusal as refusal:
      self.first = self.first or refusal
      self.refused.append({'name': name, **refusal.as_dict(forced=False)})
      return None
    self.studies.append(found)
    return found

  def envelope(
    self, frame: pd.DataFrame, name: str
  ) -> frontier.Frontier | None:
    """The envelope of training curves; None, and a refusal, without one."""
    try:
      return frontier.envelope(frame)
    except identify.Refusal as refusal:
      self.first = self.first or refusal
      self.refused.append({'name': name, **refusal.as_dict(forced=False)})
      return None


def assemble(
  primary: dict[str, Any],
  fits: list[dict[str, Any]],
  found: Collector,
  frame: pd.DataFrame,
  options: Options,
  edge: frontier.Frontier | None = None,
) -> dict[str, Any]:
  """The result of docs/fit_schema.md.

  Args:
    primary: the entry that was asked for, whose fields are the result's.
    fits: all entries.
    found: the studies behind them, and what was refused.
    frame: all runs, n, d, c, y, role.
    options: of the analysis.
    edge: the envelope of training curves, if there is one.
  """
  out = {
    **primary, 'fits': fits,
    **agreement.compare(found.studies, frame, edge, options),
    'frontier': edge.as_dict() if edge else None,
    'checklist': checklist.checklist(primary, options),
    'tables': {
      'runs': frame.to_dict('records'), 'refused_fits': found.refused
    },
    'source': {'records': None, 'curves': None},
  }  # fmt: skip
  return result.finish(out)


def finish(
  found: Collector,
  frame: pd.DataFrame,
  options: Options,
  gate: identify.Gate,
  edge: frontier.Frontier | None,
) -> dict[str, Any]:
  """The result whose primary fit is the first study.

  Args:
    found, frame, options, edge: as in `assemble`.
    gate: refusals of the table itself, which come first.
  """
  entries = [made.entry for made in found.studies]
  refusals = [r.as_dict() for r in gate.kept] + entries[0]['refusals']
  primary = {**entries[0], 'refusals': refusals}
  return assemble(primary, entries, found, frame, options, edge)

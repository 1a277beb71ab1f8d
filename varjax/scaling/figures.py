"""The figures of a report, in the order of its page.

Every figure carries its data as a table, so that a reader can redraw it. A
figure whose data is absent is left out.
"""

from __future__ import annotations

from varjax.scaling import law_figures, plan_figures, run_figures, sweepdir
from varjax.scaling.exhibit import Exhibit


def build(sweep: sweepdir.SweepDir, references: bool = True) -> list[Exhibit]:
  """All figures that the data supports; `references`: published slopes too."""
  return [
    *law_figures.build(sweep, references),
    *plan_figures.build(sweep.plan),
    *run_figures.build(sweep),
  ]

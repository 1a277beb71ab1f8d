"""Drawing: each function returns a matplotlib Figure, nothing is global.

The vocabulary of the report's figures. Every mark differs from the others
by shape or line style as well as by colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from varjax.scaling import canvas, notation
from varjax.scaling.canvas import BLUE, GREEN, GREY, INK, ORANGE, PURPLE

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure


@canvas.styled
def power_law(
  fits: Sequence[Mapping[str, Any]],
  x_label: str,
  y_label: str,
  guides: Sequence[Mapping[str, Any]] = (),
) -> Figure:
  """Fits of the same points on log-log axes, predictions beside held-out runs.

  Args:
    fits: each with `label`, `points` (x, y, sem, used, why), `holdout` (x,
      measured, predicted, lo, hi) and `curve` (x, y, lo, hi) as in
      fit.json. The points of the first are drawn.
    x_label, y_label: axis labels with units.
    guides: thin lines of known slope, each with `label`, `x` and `y`.
  """
  figure, axes = canvas.grid(1, 1, 5.6, 3.9)
  axis = axes[0]
  for i, fit in enumerate(fits):
    colour = (BLUE, GREEN, PURPLE, GREY)[i % 4]
    curve = fit.get('curve') or {}
    ends = canvas.columns(curve, 'x', 'lo', 'hi')
    if len(ends[0]):
      axis.fill_between(*ends, color=colour, alpha=0.15, linewidth=0)
    x, y = canvas.columns(curve, 'x', 'y')
    if len(x):
      axis.plot(
        x, y, color=colour, linestyle=('-', '--', '-.', ':')[i % 4],
        label=canvas.plain(fit.get('label') or 'fit'),
      )  # fmt: skip
    _predictions(axis, fit.get('holdout') or [], colour, i, len(fits))
  points = fits[0].get('points') or []
  used = [p for p in points if p.get('used', True)]
  others = [p for p in points if p not in used and p.get('why') != 'holdout']
  canvas.errorbars(axis, used, 'y', INK, 'o', 'fitted')
  canvas.errorbars(axis, others, 'y', GREY, 'x', 'left out of the fit')
  held = fits[0].get('holdout') or []
  canvas.errorbars(axis, held, 'measured', ORANGE, 'D', 'held out, measured')
  for i, guide in enumerate(guides):
    axis.plot(
      guide['x'], guide['y'], color=GREY, linewidth=0.9,
      linestyle=((0, (1, 2)), (0, (4, 2, 1, 2)))[i % 2], zorder=1,
      label=canvas.plain(guide['label']),
    )  # fmt: skip
  canvas.log_axes(axis, x_label, y_label)
  axis.legend(loc='best')
  return figure


def _predictions(
  axis: Axes, rows: Sequence[Mapping[str, Any]], colour: str, i: int,
  count: int,
) -> None:  # fmt: skip
  """Predicted values with their intervals, side by side for several fits."""
  for j, row in enumerate(rows):
    if not notation.is_number(row.get('predicted')) or not row.get('x'):
      continue
    at = row['x'] * 1.07 ** (i - (count - 1) / 2) if count > 1 else row['x']
    lo, hi = notation.ends(row)
    if lo is not None and hi is not None:
      axis.plot([at, at], [lo, hi], color=colour, linewidth=1.4, zorder=3)
    axis.plot(
      at, row['predicted'], marker='s', markersize=7, color=colour,
      markerfacecolor='none', linestyle='', zorder=4,
      label='predicted' if i == j == 0 else None,
    )  # fmt: skip


@canvas.styled
def residuals(panels: Sequence[Mapping[str, Any]]) -> Figure:
  """Measured over predicted minus one, a panel per fit.

  Args:
    panels: each with `title`, `x_label` and `rows`, mappings with x,
      residual (a fraction), sem (a fraction or None) and role.
  """
  columns = min(2, len(panels))
  rows = math.ceil(len(panels) / columns)
  figure, axes = canvas.grid(rows, columns, 5.6 * columns, 2.4 * rows + 0.3)
  for axis, panel in zip(axes, panels, strict=False):
    axis.axhline(0, color=INK, linewidth=0.8)
    for role, colour, marker, name in (
      ('fit', BLUE, 'o', 'fitted'),
      ('holdout', ORANGE, 'D', 'held out'),
    ):
      chosen = [
        {**r, 'residual': 100 * r['residual'],
         'sem': 100 * r['sem'] if notation.is_number(r.get('sem')) else None}
        for r in panel['rows']
        if (r.get('role') == 'holdout') == (role == 'holdout')
      ]  # fmt: skip
      canvas.errorbars(axis, chosen, 'residual', colour, marker, name)
    axis.set_xlabel(canvas.plain(panel['x_label']))
    axis.set_xscale('log')
    canvas.tidy(axis.xaxis, 'x', *axis.get_xlim())
    axis.margins(y=0.25)
    axis.set_title(canvas.plain(panel['title']), loc='left')
    axis.set_ylabel('residual (%)')
  axes[0].legend(loc='best')
  for axis in axes[len(panels) :]:
    axis.set_visible(False)
  return figure


@canvas.styled
def training_curves(
  curves: Sequence[Mapping[str, Any]],
  frontier: Mapping[str, Any] | None,
  x_label: str,
  y_label: str,
) -> Figure:
  """Loss against compute for every run, and the frontier under them.

  Args:
    curves: each with `name`, `params`, `x`, `y`, `failed`.
    frontier: `x`, `y` of the lower envelope, or None.
    x_label, y_label: axis labels with units.
  """
  figure, axes = canvas.grid(1, 1, 11.2, 4.6)
  axis = axes[0]
  for curve, colour in zip(curves, canvas.shades(len(curves)), strict=True):
    failed = bool(curve.get('failed'))
    axis.plot(
      curve['x'], curve['y'], color=colour, linewidth=1.2,
      linestyle=':' if failed else '-', marker='.', markersize=4,
      label=_run_label(curve) + (' (failed)' if failed else ''),
    )  # fmt: skip
  if frontier and len(frontier['x']) > 1:
    axis.plot(
      frontier['x'], frontier['y'], color=INK, linestyle='--',
      linewidth=1.3, label='frontier', zorder=5,
    )  # fmt: skip
  canvas.log_axes(axis, x_label, y_label)
  canvas.side_legend(axis)
  return figure


@canvas.styled
def scale_losses(
  runs: Sequence[Mapping[str, Any]], scales: Sequence[str], y_label: str
) -> Figure:
  """Left: loss over scales, a line per run. Right: over N, one per scale.

  Args:
    runs: each with `name`, `params` and `losses`, one per scale.
    scales: names of the scales.
    y_label: axis label with unit.
  """
  figure, axes = canvas.grid(1, 2, 11.2, 4.2)
  left, right = axes
  index = np.arange(len(scales))
  for run, colour in zip(runs, canvas.shades(len(runs)), strict=True):
    left.plot(
      index, run['losses'], color=colour, marker='.', linewidth=1.2,
      label=_run_label(run),
    )  # fmt: skip
  left.set_xticks(index, scales)
  left.set_xlabel('scale (grid side)')
  left.set_ylabel(canvas.plain(y_label))
  left.legend(loc='best', fontsize=7, ncols=2 if len(runs) > 6 else 1)
  sized = [r for r in runs if notation.is_number(r.get('params'))]
  for scale, colour in enumerate(canvas.shades(len(scales))):
    right.plot(
      [r['params'] for r in sized], [r['losses'][scale] for r in sized],
      color=colour, marker='.', linewidth=1.2, label=scales[scale],
    )  # fmt: skip
  canvas.log_axes(right, notation.label('params_body'), y_label)
  canvas.side_legend(right, 'scale')
  return figure


@canvas.styled
def isoflop(
  budgets: Sequence[Mapping[str, Any]], x_label: str, y_label: str
) -> Figure:
  """Loss against size at equal compute, with the accepted minima.

  Args:
    budgets: each with `name`, `x`, `y` and optionally `curve` (x, y) and
      `minimum` (x, y).
    x_label, y_label: axis labels with units.
  """
  figure, axes = canvas.grid(1, 1, 11.2, 4.6)
  axis = axes[0]
  for budget, colour in zip(budgets, canvas.shades(len(budgets)), strict=True):
    axis.plot(
      budget['x'], budget['y'], linewidth=0.9, marker='o', markersize=4,
      color=colour, label=canvas.plain(budget['name']),
    )  # fmt: skip
    x, y = canvas.columns(budget.get('curve') or {}, 'x', 'y')
    axis.plot(x, y, color=colour, linewidth=1.2)
    x, y = canvas.columns(_listed(budget.get('minimum')), 'x', 'y')
    axis.plot(
      x, y, linestyle='', marker='*', markersize=10, color=colour,
      markeredgecolor=INK, markeredgewidth=0.6,
    )  # fmt: skip
  canvas.log_axes(axis, x_label, y_label)
  canvas.side_legend(axis, 'compute (FLOPs)')
  return figure


@canvas.styled
def surface(
  grid: Mapping[str, Any],
  runs: Sequence[Mapping[str, Any]],
  ridge: Mapping[str, Any],
  x_label: str,
  y_label: str,
) -> Figure:
  """Contours of a fitted L(N, D), the runs, and the compute-optimal line.

  Args:
    grid: `x` [n], `y` [m] and `z` [m, n].
    runs: each with `x`, `y`, `role`.
    ridge: `x`, `y` of the optimum.
    x_label, y_label: axis labels with units.
  """
  figure, axes = canvas.grid(1, 1, 5.6, 3.9)
  axis = axes[0]
  contours = axis.contour(
    grid['x'], grid['y'], grid['z'], levels=12, cmap='viridis', linewidths=1
  )
  axis.clabel(contours, fontsize=7, fmt='%.3g')
  axis.plot(
    ridge['x'], ridge['y'], color=INK, linestyle='--', linewidth=1.3,
    label='compute-optimal',
  )  # fmt: skip
  for role, colour, marker in (('fit', BLUE, 'o'), ('holdout', ORANGE, 'D')):
    chosen = [
      r for r in runs if (r.get('role') == 'holdout') == (role == 'holdout')
    ]
    if chosen:
      axis.plot(
        [r['x'] for r in chosen], [r['y'] for r in chosen], linestyle='',
        marker=marker, markersize=4, color=colour,
        label='held out' if role == 'holdout' else 'fitted runs',
      )  # fmt: skip
  canvas.log_axes(axis, x_label, y_label, margin=0.0)
  axis.legend(loc='lower left', bbox_to_anchor=(0.0, 1.0), ncols=3)
  return figure


@canvas.styled
def forest(
  rows: Sequence[Mapping[str, Any]], x_label: str, at: float | None = None
) -> Figure:
  """One estimate a line with its interval, to compare methods.

  Args:
    rows: each with `name`, `value`, and `lo`, `hi` or None.
    x_label: axis label.
    at: where a reference line is drawn, if anywhere.
  """
  figure, axes = canvas.grid(1, 1, 5.6, 0.42 * len(rows) + 1.0)
  axis = axes[0]
  if at is not None:
    axis.axvline(at, color=INK, linewidth=0.8)
  for i, row in enumerate(rows):
    lo, hi = notation.ends(row)
    if lo is not None and hi is not None:
      axis.plot([lo, hi], [i, i], color=BLUE, linewidth=2, alpha=0.5)
    axis.plot(row['value'], i, marker='o', color=BLUE, markersize=6)
  axis.set_yticks(range(len(rows)), [canvas.plain(r['name']) for r in rows])
  axis.set_ylim(len(rows) - 0.4, -0.6)
  axis.grid(visible=False, axis='y')
  axis.set_xlabel(canvas.plain(x_label))
  return figure


@canvas.styled
def lines(
  series: Sequence[Mapping[str, Any]],
  x_label: str,
  y_label: str,
  log_y: bool = True,
) -> Figure:
  """Labelled lines with optional bands; x is logarithmic.

  Args:
    series: each with `name`, `x`, `y`, optionally `lo`, `hi`, and
      `mark`, an (x, y) pair to emphasise.
    x_label, y_label: axis labels with units.
    log_y: logarithmic y axis.
  """
  figure, axes = canvas.grid(1, 1, 5.6, 3.7)
  axis = axes[0]
  palette = (BLUE, ORANGE, GREEN, PURPLE)
  for i, line in enumerate(series):
    colour = palette[i % len(palette)]
    if 'lo' in line:
      axis.fill_between(
        line['x'], line['lo'], line['hi'], color=colour, alpha=0.16,
        linewidth=0,
      )  # fmt: skip
    axis.plot(
      line['x'], line['y'], color=colour, label=canvas.plain(line['name']),
      linestyle=('-', '--', '-.', ':')[i % 4],
    )  # fmt: skip
    if 'mark' in line:
      axis.plot(
        *line['mark'], marker='*', markersize=11, color=colour,
        markeredgecolor=INK, markeredgewidth=0.6, linestyle='',
      )  # fmt: skip
  canvas.log_axes(axis, x_label, y_label, log_y=log_y)
  if len(series) > 1:
    axis.legend(loc='best')
  return figure


@canvas.styled
def bars(names: Sequence[str], values: Sequence[float], y_label: str) -> Figure:
  """One bar per name, for the tokenizer's quality per scale."""
  figure, axes = canvas.grid(1, 1, 5.6, 2.9)
  axis = axes[0]
  index = np.arange(len(names))
  drawn = axis.bar(index, values, color=BLUE, width=0.65)
  axis.bar_label(drawn, fmt='%.3g', fontsize=7, padding=2)
  axis.set_xticks(index, [canvas.plain(n) for n in names])
  axis.grid(visible=False, axis='x')
  axis.set_xlabel('scales decoded')
  axis.set_ylabel(canvas.plain(y_label))
  return figure


def _run_label(run: Mapping[str, Any]) -> str:
  size = notation.count(run.get('params'))
  name = canvas.plain(str(run.get('name') or '?'))
  return name if size == notation.MISSING else f'{name} · {size}'


def _listed(point: Any) -> dict[str, list[Any]]:
  if not isinstance(point, Mapping):
    return {}
  return {k: [point.get(k)] for k in ('x', 'y')}

"""Drawing: each function returns a matplotlib Figure, nothing is global.

matplotlib is imported inside the functions, so that fitting and planning
do not pay for it. Colours are from Okabe and Ito, safe for colour-blind
readers; every mark also differs by shape or line style. `to_svg` renders
text as outlines, so a page looks the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import io
import math
import re
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from varjax.scaling import notation

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.axis import Axis
  from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE = '#0072B2', '#D55E00', '#009E73', '#A0568A'
GREY = '#7d8590'
# `inline` replaces these two by the page's own colours.
INK, GRID = '#1b1f24', '#d8dce1'

_STYLE = {
  'font.family': 'DejaVu Sans',
  'font.size': 9,
  'axes.titlesize': 9.5,
  'axes.labelsize': 9,
  'axes.edgecolor': INK,
  'axes.labelcolor': INK,
  'axes.linewidth': 0.7,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': GRID,
  'grid.linewidth': 0.6,
  'text.color': INK,
  'xtick.color': INK,
  'ytick.color': INK,
  'xtick.labelsize': 8,
  'ytick.labelsize': 8,
  'legend.fontsize': 8,
  'legend.frameon': False,
  'lines.linewidth': 1.6,
  'svg.fonttype': 'path',
  'figure.facecolor': 'none',
  'axes.facecolor': 'none',
}

_Draw = TypeVar('_Draw', bound=Callable[..., Any])


def _styled(draw: _Draw) -> _Draw:
  """Runs `draw` with the style above, and leaves no trace of it."""

  @functools.wraps(draw)
  def styled(*args: Any, **kwargs: Any) -> Any:
    import matplotlib

    with matplotlib.rc_context(_STYLE):
      return draw(*args, **kwargs)

  return styled  # type: ignore[return-value]


@_styled
def power_law(
  fits: Sequence[Mapping[str, Any]], x_label: str, y_label: str
) -> Figure:
  """Fits of the same points on log-log axes, predictions beside held-out runs.

  Args:
    fits: each with `label`, `points` (x, y, sem, used, why), `holdout` (x,
      measured, predicted, lo, hi) and `curve` (x, y, lo, hi) as in
      fit.json. The points of the first are drawn.
    x_label, y_label: axis labels with units.
  """
  figure, axes = _grid(1, 1, 5.6, 3.9)
  axis = axes[0]
  for i, fit in enumerate(fits):
    colour = (BLUE, GREEN, PURPLE, GREY)[i % 4]
    curve = fit.get('curve') or {}
    ends = _columns(curve, 'x', 'lo', 'hi')
    if len(ends[0]):
      axis.fill_between(*ends, color=colour, alpha=0.15, linewidth=0)
    x, y = _columns(curve, 'x', 'y')
    if len(x):
      axis.plot(
        x, y, color=colour, linestyle=('-', '--', '-.', ':')[i % 4],
        label=_plain(fit.get('label') or 'fit'),
      )  # fmt: skip
    _predictions(axis, fit.get('holdout') or [], colour, i, len(fits))
  points = fits[0].get('points') or []
  used = [p for p in points if p.get('used', True)]
  others = [p for p in points if p not in used and p.get('why') != 'holdout']
  _errorbars(axis, used, 'y', INK, 'o', 'fitted')
  _errorbars(axis, others, 'y', GREY, 'x', 'left out of the fit')
  held = fits[0].get('holdout') or []
  _errorbars(axis, held, 'measured', ORANGE, 'D', 'held out, measured')
  _log_axes(axis, x_label, y_label)
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


@_styled
def residuals(panels: Sequence[Mapping[str, Any]]) -> Figure:
  """Measured over predicted minus one, a panel per fit.

  Args:
    panels: each with `title`, `x_label` and `rows`, mappings with x,
      residual (a fraction), sem (a fraction or None) and role.
  """
  columns = min(2, len(panels))
  rows = math.ceil(len(panels) / columns)
  figure, axes = _grid(rows, columns, 5.6 * columns, 2.4 * rows + 0.3)
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
      _errorbars(axis, chosen, 'residual', colour, marker, name)
    axis.set_xscale('log')
    _tidy(axis.xaxis, 'x', *axis.get_xlim())
    axis.margins(y=0.25)
    axis.set_title(_plain(panel['title']), loc='left')
    axis.set_xlabel(_plain(panel['x_label']))
    axis.set_ylabel('residual (%)')
  axes[0].legend(loc='best')
  for axis in axes[len(panels) :]:
    axis.set_visible(False)
  return figure


@_styled
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
  figure, axes = _grid(1, 1, 11.2, 4.6)
  axis = axes[0]
  for curve, colour in zip(curves, _shades(len(curves)), strict=True):
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
  _log_axes(axis, x_label, y_label)
  _side_legend(axis)
  return figure


@_styled
def scale_losses(
  runs: Sequence[Mapping[str, Any]], scales: Sequence[str], y_label: str
) -> Figure:
  """Left: loss over scales, a line per run. Right: over N, one per scale.

  Args:
    runs: each with `name`, `params` and `losses`, one per scale.
    scales: names of the scales.
    y_label: axis label with unit.
  """
  figure, axes = _grid(1, 2, 11.2, 4.2)
  left, right = axes
  index = np.arange(len(scales))
  for run, colour in zip(runs, _shades(len(runs)), strict=True):
    left.plot(
      index, run['losses'], color=colour, marker='.', linewidth=1.2,
      label=_run_label(run),
    )  # fmt: skip
  left.set_xticks(index, scales)
  left.set_xlabel('scale (grid side)')
  left.set_ylabel(_plain(y_label))
  left.legend(loc='best', fontsize=7, ncols=2 if len(runs) > 6 else 1)
  sized = [r for r in runs if notation.is_number(r.get('params'))]
  for scale, colour in zip(index, _shades(len(scales)), strict=True):
    right.plot(
      [r['params'] for r in sized], [r['losses'][scale] for r in sized],
      color=colour, marker='.', linewidth=1.2, label=scales[scale],
    )  # fmt: skip
  _log_axes(right, notation.label('params_body'), y_label)
  _side_legend(right, 'scale')
  return figure


@_styled
def isoflop(
  budgets: Sequence[Mapping[str, Any]], x_label: str, y_label: str
) -> Figure:
  """Loss against size at equal compute, with the accepted minima.

  Args:
    budgets: each with `name`, `x`, `y` and optionally `curve` (x, y) and
      `minimum` (x, y).
    x_label, y_label: axis labels with units.
  """
  figure, axes = _grid(1, 1, 11.2, 4.6)
  axis = axes[0]
  for budget, colour in zip(budgets, _shades(len(budgets)), strict=True):
    axis.plot(
      budget['x'], budget['y'], linewidth=0.9, marker='o', markersize=4,
      color=colour, label=_plain(budget['name']),
    )  # fmt: skip
    x, y = _columns(budget.get('curve') or {}, 'x', 'y')
    axis.plot(x, y, color=colour, linewidth=1.2)
    x, y = _columns(_listed(budget.get('minimum')), 'x', 'y')
    axis.plot(
      x, y, linestyle='', marker='*', markersize=10, color=colour,
      markeredgecolor=INK, markeredgewidth=0.6,
    )  # fmt: skip
  _log_axes(axis, x_label, y_label)
  _side_legend(axis, 'compute (FLOPs)')
  return figure


@_styled
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
  figure, axes = _grid(1, 1, 5.6, 3.9)
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
  _log_axes(axis, x_label, y_label, margin=0.0)
  axis.legend(loc='best')
  return figure


@_styled
def forest(rows: Sequence[Mapping[str, Any]], x_label: str) -> Figure:
  """One estimate a line with its interval, to compare methods.

  Args:
    rows: each with `name`, `value`, and `lo`, `hi` or None.
    x_label: axis label.
  """
  figure, axes = _grid(1, 1, 5.6, 0.42 * len(rows) + 1.0)
  axis = axes[0]
  for i, row in enumerate(rows):
    lo, hi = notation.ends(row)
    if lo is not None and hi is not None:
      axis.plot([lo, hi], [i, i], color=BLUE, linewidth=2, alpha=0.5)
    axis.plot(row['value'], i, marker='o', color=BLUE, markersize=6)
  axis.set_yticks(range(len(rows)), [_plain(r['name']) for r in rows])
  axis.set_ylim(len(rows) - 0.4, -0.6)
  axis.grid(visible=False, axis='y')
  axis.set_xlabel(_plain(x_label))
  return figure


@_styled
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
  figure, axes = _grid(1, 1, 5.6, 3.7)
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
      line['x'], line['y'], color=colour, label=_plain(line['name']),
      linestyle=('-', '--', '-.', ':')[i % 4],
    )  # fmt: skip
    if 'mark' in line:
      axis.plot(
        *line['mark'], marker='*', markersize=11, color=colour,
        markeredgecolor=INK, markeredgewidth=0.6, linestyle='',
      )  # fmt: skip
  _log_axes(axis, x_label, y_label, log_y=log_y)
  if len(series) > 1:
    axis.legend(loc='best')
  return figure


@_styled
def bars(names: Sequence[str], values: Sequence[float], y_label: str) -> Figure:
  """One bar per name, for the tokenizer's quality per scale."""
  figure, axes = _grid(1, 1, 5.6, 2.9)
  axis = axes[0]
  index = np.arange(len(names))
  drawn = axis.bar(index, values, color=BLUE, width=0.65)
  axis.bar_label(drawn, fmt='%.3g', fontsize=7, padding=2)
  axis.set_xticks(index, [_plain(n) for n in names])
  axis.grid(visible=False, axis='x')
  axis.set_xlabel('scales decoded')
  axis.set_ylabel(_plain(y_label))
  return figure


def to_svg(figure: Figure, name: str) -> str:
  """Renders to a standalone SVG file, the same bytes for the same data.

  Args:
    figure: what to draw.
    name: seeds the ids of the file.
  """
  import matplotlib

  buffer = io.StringIO()
  with matplotlib.rc_context({**_STYLE, 'svg.hashsalt': name}):
    figure.savefig(
      buffer, format='svg', bbox_inches='tight', pad_inches=0.06,
      metadata={'Date': None, 'Creator': None},
    )  # fmt: skip
  return re.sub(r'<!--.*?-->', '', buffer.getvalue(), flags=re.DOTALL)


def inline(svg: str, name: str) -> str:
  """A rendered SVG as an element of a page that may hold others.

  Args:
    svg: from `to_svg`.
    name: prefix that makes its ids unique on the page.

  Returns:
    The element, with ink and grid in the page's own colours.
  """
  text = svg[svg.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  text = re.sub(r'\bid="', f'id="{name}-', text)
  text = text.replace('url(#', f'url(#{name}-')
  text = text.replace('href="#', f'href="#{name}-')
  text = text.replace(INK, 'var(--ink)').replace(GRID, 'var(--grid)')
  return re.sub(r'\n\s*\n+', '\n', text)


def _grid(
  rows: int, columns: int, width: float, height: float
) -> tuple[Figure, list[Axes]]:
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure as NewFigure

  figure = NewFigure(figsize=(width, height), layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.subplots(rows, columns, squeeze=False)
  return figure, list(axes.flat)


def _errorbars(
  axis: Axes, rows: Sequence[Mapping[str, Any]], key: str, colour: str,
  marker: str, name: str,
) -> None:  # fmt: skip
  kept = [
    r for r in rows
    if notation.is_number(r.get('x')) and notation.is_number(r.get(key))
  ]  # fmt: skip
  if not kept:
    return
  sem = [
    float(r['sem']) if notation.is_number(r.get('sem')) else 0.0 for r in kept
  ]
  axis.errorbar(
    [r['x'] for r in kept], [r[key] for r in kept],
    yerr=sem if any(sem) else None, fmt=marker, color=colour,
    markersize=5, capsize=2, linewidth=1, label=name, zorder=5,
  )  # fmt: skip


def _log_axes(
  axis: Axes, x_label: str, y_label: str, margin: float = 0.06,
  log_y: bool = True,
) -> None:  # fmt: skip
  axis.margins(margin)
  axis.set_xscale('log')
  axis.set_xlabel(_plain(x_label))
  axis.set_ylabel(_plain(y_label))
  _tidy(axis.xaxis, 'x', *axis.get_xlim())
  if log_y:
    axis.set_yscale('log')
    _tidy(axis.yaxis, 'y', *axis.get_ylim())


def _tidy(axis: Axis, which: str, low: float, high: float) -> None:
  """Ticks that can be read on a logarithmic axis of any span."""
  from matplotlib import ticker

  decades = math.log10(high / low) if 0 < low < high else 1.0
  if decades > 2.2:
    axis.set_major_locator(ticker.LogLocator(numticks=9))
    axis.set_minor_locator(
      ticker.LogLocator(subs=tuple(range(2, 10)), numticks=40)
    )
  elif decades > 0.9:
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_minor_locator(
      ticker.LogLocator(subs=tuple(range(2, 10)), numticks=40)
    )
  else:
    # Less than a decade: powers of ten would leave the axis bare.
    steps = ticker.MaxNLocator(6 if which == 'y' else 5)
    inside = [t for t in steps.tick_values(low, high) if low <= t <= high]
    axis.set_major_locator(ticker.FixedLocator(inside))
    axis.set_minor_locator(ticker.NullLocator())
  compute = 'FLOP' in axis.get_label_text()
  axis.set_major_formatter(
    ticker.FuncFormatter(_power_tick if compute else _tick)
  )
  axis.set_minor_formatter(ticker.NullFormatter())
  axis.axes.grid(visible=True, which='major')


def _tick(value: float, _: Any = None) -> str:
  if value <= 0:
    return ''
  for limit, suffix in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
    if limit * 0.9999 <= value < 1e15:
      return f'{value / limit:.4g}{suffix}'
  return f'{value:.4g}' if 1e-3 <= value < 1e15 else _power_tick(value)


def _power_tick(value: float, _: Any = None) -> str:
  if value <= 0:
    return ''
  mantissa, exponent = f'{value:.2e}'.split('e')
  head = f'{float(mantissa):g}'
  power = f'10^{{{int(exponent)}}}'
  return f'${power}$' if head == '1' else f'${head}{{\\times}}{power}$'


def _shades(size: int) -> list[Any]:
  """Colours of ordered things; both ends are left out, so that the marks
  stand out from a white page and from a black one."""
  import matplotlib

  colours = matplotlib.colormaps['viridis']
  return [colours(v) for v in np.linspace(0.22, 0.88, max(size, 1))][:size]


def _side_legend(axis: Axes, title: str | None = None) -> None:
  axis.legend(
    loc='center left', bbox_to_anchor=(1.01, 0.5), title=title,
    title_fontsize=8, fontsize=7.5,
  )  # fmt: skip


def _run_label(run: Mapping[str, Any]) -> str:
  size = notation.count(run.get('params'))
  name = _plain(str(run.get('name') or '?'))
  return name if size == notation.MISSING else f'{name} · {size}'


def _plain(text: str) -> str:
  """Text from outside is never mathematics: `$` would start a formula."""
  return str(text).replace('$', r'\$')


def _columns(table: Mapping[str, Any], *keys: str) -> list[np.ndarray]:
  """Equal-length columns, rows with a missing value left out."""
  if any(table.get(k) is None for k in keys):
    return [np.array([]) for _ in keys]
  rows = [
    row
    for row in zip(*(table[k] for k in keys), strict=False)
    if all(notation.is_number(v) for v in row)
  ]
  values = np.array(rows, float).reshape(len(rows), len(keys))
  return list(values.T)


def _listed(point: Any) -> dict[str, list[Any]]:
  if not isinstance(point, Mapping):
    return {}
  return {k: [point.get(k)] for k in ('x', 'y')}

"""The paper that `plots` draws on: style, axes, ticks and SVG.

matplotlib is imported inside the functions, so that fitting and planning
do not pay for it. Colours are from Okabe and Ito, safe for colour-blind
readers. `to_svg` renders text as outlines, so a page looks the same
everywhere.
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


def styled(draw: _Draw) -> _Draw:
  """Runs `draw` with the style above, and leaves no trace of it."""

  @functools.wraps(draw)
  def styled(*args: Any, **kwargs: Any) -> Any:
    import matplotlib

    with matplotlib.rc_context(_STYLE):
      return draw(*args, **kwargs)

  return styled  # type: ignore[return-value]


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


def grid(
  rows: int, columns: int, width: float, height: float
) -> tuple[Figure, list[Axes]]:
  """An empty figure in inches, and its axes row by row."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure as NewFigure

  figure = NewFigure(figsize=(width, height), layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.subplots(rows, columns, squeeze=False)
  return figure, list(axes.flat)


def errorbars(
  axis: Axes, rows: Sequence[Mapping[str, Any]], key: str, colour: str,
  marker: str, name: str,
) -> None:  # fmt: skip
  """Marks of `rows` at x and `key`, with bars where they have a sem.

  Args:
    axis: drawn on.
    rows: with 'x', `key` and perhaps 'sem'; what is no number is left out.
    key: of the height.
    colour, marker: as Matplotlib names them.
    name: in the legend.
  """
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


def log_axes(
  axis: Axes, x_label: str, y_label: str, margin: float = 0.06,
  log_y: bool = True,
) -> None:  # fmt: skip
  """Labels, logarithmic scales and readable ticks.

  Args:
    axis: with its lines drawn already.
    x_label, y_label: a name with its unit.
    margin: share of the range left free on each side.
    log_y: whether the y axis is logarithmic, too.
  """
  axis.margins(margin)
  axis.set_xscale('log')
  axis.set_xlabel(plain(x_label))
  axis.set_ylabel(plain(y_label))
  tidy(axis.xaxis, 'x', *axis.get_xlim())
  if log_y:
    axis.set_yscale('log')
    tidy(axis.yaxis, 'y', *axis.get_ylim())


def tidy(axis: Axis, which: str, low: float, high: float) -> None:
  """Ticks that can be read on a logarithmic axis of any span.

  Args:
    axis: whose label decides how they are written: FLOPs as powers of ten.
    which: 'x' or 'y'.
    low, high: its limits.
  """
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


def shades(size: int) -> list[Any]:
  """Colours of ordered things; both ends are left out, so that the marks
  stand out from a white page and from a black one."""
  import matplotlib

  colours = matplotlib.colormaps['viridis']
  return [colours(v) for v in np.linspace(0.22, 0.88, max(size, 1))][:size]


def side_legend(axis: Axes, title: str | None = None) -> None:
  """A legend to the right of the axes."""
  axis.legend(
    loc='center left', bbox_to_anchor=(1.01, 0.5), title=title,
    title_fontsize=8, fontsize=7.5,
  )  # fmt: skip


def plain(text: str) -> str:
  """Text from outside is never mathematics: `$` would start a formula."""
  return str(text).replace('$', r'\$')


def columns(table: Mapping[str, Any], *keys: str) -> list[np.ndarray]:
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

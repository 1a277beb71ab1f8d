"""Curves of one score against another, over the settings of a sweep.

Distance against Inception score, and precision against recall: how much
fidelity a setting buys, and at the price of how much variety.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib

from varjax.evaluations import EvaluationRecord
from varjax.scoring.scores import name_of

Points = Sequence[EvaluationRecord]


def plot(
  points: Points,
  axes: dict[str, tuple[float, ...]],
  network: str,
  path: str | os.PathLike[str],
) -> list[str]:
  """Draws distance against Inception score, and precision against recall.

  One line for each setting of the other axes, along the first axis; every
  point says its value of that axis.

  Args:
    points: results of `sweep.requests`, in their order.
    axes: as given to `sweep.requests`.
    network: name of the feature network.
    path: file to write; its ending is the format.

  Returns:
    The panels that were drawn; one whose scores are absent is left out.
  """
  import matplotlib

  matplotlib.use('Agg', force=False)
  from matplotlib.figure import Figure

  panels = _panels(points, network)
  if not panels:
    return []
  figure = Figure(figsize=(4.2 * len(panels), 3.6), layout='constrained')
  for column, (x_name, y_name) in enumerate(panels, start=1):
    axis = figure.add_subplot(1, len(panels), column)
    _draw(axis, points, list(axes), x_name, y_name)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.stem}.partial{path.suffix}')
  figure.savefig(partial, dpi=120)
  os.replace(partial, path)
  return [f'{y_name} over {x_name}' for x_name, y_name in panels]


def _panels(points: Points, network: str) -> list[tuple[str, str]]:
  """Names of the scores across and upwards that all points have."""

  def known(kind: str) -> bool:
    return all(name_of(kind, network) in point.values for point in points)

  kinds = [('is', 'fd'), ('recall', 'precision'), ('is', 'kd')]
  kinds = [pair for pair in kinds if all(map(known, pair))]
  # The kernel distance stands in only where there is no Frechet distance.
  if ('is', 'fd') in kinds:
    kinds = [pair for pair in kinds if pair != ('is', 'kd')]
  return [(name_of(x, network), name_of(y, network)) for x, y in kinds]


def _draw(
  axis, points: Points, keys: list[str], x_name: str, y_name: str
) -> None:
  """One panel: lines along the first key, one for each of the others."""
  first, *others = keys
  lines: dict[str, list[EvaluationRecord]] = {}
  for point in points:
    label = ', '.join(f'{key} {point.settings[key]:g}' for key in others)
    lines.setdefault(label, []).append(point)
  for label, line in lines.items():
    xs = [point.values[x_name] for point in line]
    ys = [point.values[y_name] for point in line]
    axis.plot(xs, ys, 'o-', label=label or None, linewidth=1.4, markersize=4)
    for point, x, y in zip(line, xs, ys, strict=True):
      axis.annotate(
        f'{point.settings[first]:g}', (x, y), fontsize=7,
        xytext=(3, 3), textcoords='offset points',
      )  # fmt: skip
  axis.set_xlabel(x_name)
  axis.set_ylabel(y_name)
  axis.set_title(f'along {first}', fontsize=9)
  axis.grid(alpha=0.3)
  if others:
    axis.legend(fontsize=7, frameon=False)

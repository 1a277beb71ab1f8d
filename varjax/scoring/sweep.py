"""Curves over guidance and truncation: which settings, and their plots.

More guidance, or fewer codes to choose from, buys fidelity with variety. A
single number hides that; the curve of one score against another shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools
import os
import pathlib

from varjax import errors
from varjax.evaluations import EvaluationRecord
from varjax.scoring.samples import Request
from varjax.scoring.scores import name_of

KEYS = {'cfg': float, 'top_k': int, 'top_p': float}


def parse(words: Sequence[str]) -> dict[str, tuple[float, ...]]:
  """'cfg=1,1.5' and 'top_k=0,900' to their values.

  Raises:
    ConfigError: an unknown key, one twice, or a value that it cannot have.
  """
  axes: dict[str, tuple[float, ...]] = {}
  for word in words:
    key, equals, text = word.partition('=')
    if key not in KEYS or not equals or key in axes:
      raise errors.ConfigError(
        f'--sweep {word}: must be one of {", ".join(KEYS)}, each once, with '
        'values as in cfg=1,1.5,2'
      )
    try:
      values = tuple(KEYS[key](part) for part in text.split(','))
    except ValueError as error:
      raise errors.ConfigError(
        f'--sweep {word}: values of {key} must be numbers of type '
        f'{KEYS[key].__name__}'
      ) from error
    above = 1 if key == 'top_p' else float('inf')
    if not all(0 <= value <= above for value in values):
      raise errors.ConfigError(
        f'--sweep {word}: values of {key} must be in [0, {above}]'
      )
    axes[key] = values
  return axes


def requests(
  axes: dict[str, tuple[float, ...]], base: Request
) -> list[Request]:
  """The grid of all values, the last axis fastest."""
  points = itertools.product(*axes.values())
  return [
    dataclasses.replace(base, **dict(zip(axes, point, strict=True)))
    for point in points
  ]


def plot(
  points: Sequence[EvaluationRecord],
  axes: dict[str, tuple[float, ...]],
  network: str,
  path: str | os.PathLike[str],
) -> list[str]:
  """Draws distance against Inception score, and precision against recall.

  One line for each setting of the other axes, along the first axis; every
  point says its value of that axis.

  Args:
    points: results of `requests`, in their order.
    axes: as given to `requests`.
    network: name of the feature network.
    path: file to write; its ending is the format.

  Returns:
    The panels that were drawn; one whose scores are absent is left out.
  """
  import matplotlib

  matplotlib.use('Agg', force=False)
  from matplotlib.figure import Figure

  panels = [
    (x, y)
    for x, y in (('is', 'fd'), ('recall', 'precision'), ('is', 'kd'))
    if all(
      name_of(kind, network) in point.values
      for kind in (x, y)
      for point in points
    )
  ]
  # The kernel distance stands in only where there is no Frechet distance.
  if ('is', 'fd') in panels:
    panels = [panel for panel in panels if panel != ('is', 'kd')]
  if not panels:
    return []
  first, *others = axes
  figure = Figure(figsize=(4.2 * len(panels), 3.6), layout='constrained')
  for column, (x, y) in enumerate(panels):
    axis = figure.add_subplot(1, len(panels), column + 1)
    x_name, y_name = name_of(x, network), name_of(y, network)
    lines: dict[str, list[EvaluationRecord]] = {}
    for point in points:
      label = ', '.join(f'{key} {point.settings[key]:g}' for key in others)
      lines.setdefault(label, []).append(point)
    for label, line in lines.items():
      xs = [point.values[x_name] for point in line]
      ys = [point.values[y_name] for point in line]
      axis.plot(xs, ys, 'o-', label=label or None, linewidth=1.4, markersize=4)
      for point, a, b in zip(line, xs, ys, strict=True):
        axis.annotate(
          f'{point.settings[first]:g}', (a, b), fontsize=7,
          xytext=(3, 3), textcoords='offset points',
        )  # fmt: skip
    axis.set_xlabel(x_name)
    axis.set_ylabel(y_name)
    axis.set_title(f'along {first}', fontsize=9)
    axis.grid(alpha=0.3)
    if others:
      axis.legend(fontsize=7, frameon=False)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.stem}.partial{path.suffix}')
  figure.savefig(partial, dpi=120)
  os.replace(partial, path)
  return [f'{name_of(y, network)} over {name_of(x, network)}'
          for x, y in panels]  # fmt: skip

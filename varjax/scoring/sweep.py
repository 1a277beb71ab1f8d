"""A grid over guidance and truncation: which settings are scored.

More guidance, or fewer codes to choose from, buys fidelity with variety. A
single number hides that; the curve of one score against another shows it
(curves.py).
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools

from varjax import errors
from varjax.scoring.samples import Request

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

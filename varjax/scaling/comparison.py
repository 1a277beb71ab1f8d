"""Published laws beside a fitted one: how far they can be compared, and why.

A published law lies over a fit at its own height only where everything is
the same: quantity, input with its convention, treatment of the floor,
tokens. Where tokens or data differ its slope alone is comparable, and the
line is shifted through the middle of the fit. Where the conventions differ
nothing is, and the reason says what to fit instead; the FLOPs of VAR's
C laws are N D and not 6 N D, for one.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd

from varjax.scaling import notation, reference

ABSOLUTE, SLOPE, REFUSED = 'absolute', 'slope', 'not comparable'
# Tokens whose loss has the units of ours, and of the official tokenizer.
COMPARABLE = ('VAR codes', 'image codes')
_OFFICIAL = {'code_vocab': 4096, 'positions_per_image': 680}
_FLOORS = {'fixed': 'power_pinned', 'fitted': 'power_floor', 'none': 'power'}
_POINTS = 48


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One published law beside one fit.

  Attributes:
    law: published.
    how: ABSOLUTE, SLOPE or REFUSED.
    reason: why not more than that; '' for ABSOLUTE.
    label: for the legend.
    x, y: the line, [48] each, in the units of the fit; empty if REFUSED.
  """

  law: reference.Law
  how: str
  reason: str
  label: str = ''
  x: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
  y: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))


def compare(
  fit: Mapping[str, Any], runs: pd.DataFrame | None = None
) -> list[Comparison]:
  """Every published law of the input and the quantity of a 1-D fit.

  Args:
    fit: of fit.json.
    runs: records, which say whether the tokens are the official ones.
  """
  x = _name(fit.get('x')).lower()
  found = [
    _compare(law, fit, runs)
    for law in reference.laws().values()
    if law.x == x and law.metric == _name(fit.get('y'))
  ]
  return [c for c in found if c is not None]


def drawn(
  fit: Mapping[str, Any], runs: pd.DataFrame | None = None
) -> list[Comparison]:
  """Those that have a line."""
  return [c for c in compare(fit, runs) if c.how != REFUSED]


def _compare(
  law: reference.Law, fit: Mapping[str, Any], runs: pd.DataFrame | None
) -> Comparison | None:
  reason = _conflict(law, fit)
  if reason:
    return Comparison(law, REFUSED, reason)
  middle = _middle(fit)
  if middle is None:
    return None
  params = fit['params']
  floor = float(params.get('E') or 0.0)
  ends = (fit.get('curve') or {}).get('x') or [middle / 3, middle * 3]
  x = np.geomspace(min(ends), max(ends), _POINTS)
  exponent = law.params['exponent']
  checked = '' if law.certainty != 'unverified' else ', unverified'
  other = _other_tokens(law, fit, runs)
  short = f'{law.source.split(",")[0]} ({law.id})'
  if not other:
    y = floor + law.predict(x)
    return Comparison(law, ABSOLUTE, '', f'{short}{checked}', x, y)
  above = params['A'] * middle ** -params['alpha']
  y = floor + above * (x / middle) ** exponent
  label = f'slope {exponent:g} of {short}{checked}'
  if law.x == 'c':
    label += f', {law.counts}'
  return Comparison(law, SLOPE, other, label, x, y)


def _conflict(law: reference.Law, fit: Mapping[str, Any]) -> str:
  """Why a law and a fit have nothing to compare; '' where they have."""
  if law.domain not in COMPARABLE:
    return f'its tokens are {law.domain}, not image codes'
  needed = _FLOORS[law.floor]
  if fit.get('form') != needed:
    how = {
      'fixed': f'its floor is fixed at {law.fixed_floor}: fit with --floor '
      f'{law.metric}={law.fixed_floor}',
      'fitted': 'its floor is fitted: fit with --form power_floor',
      'none': 'it has no floor: fit with --form power',
    }
    return how[law.floor]
  if law.x == 'n':
    counts = str(fit.get('n_convention') or '').split(':')[0]
    if counts != law.counts:
      return (
        f'its N counts the {law.counts}, not {counts or "an unknown count"}: '
        f'fit with --n_convention {law.counts}'
      )
  if law.x == 'c':
    counts = str(fit.get('flop_convention') or 'unknown')
    k = law.counts.removeprefix('C = ').split(' ')[0]
    if counts != law.counts:
      return (
        f'its compute is {law.counts}, not "{counts}": fit with '
        f'--flop_convention knd --k {k}'
      )
  return ''


def _other_tokens(
  law: reference.Law, fit: Mapping[str, Any], runs: pd.DataFrame | None
) -> str:
  """Why only a slope can be compared; '' where heights can."""
  if law.disputed:
    return 'its constants conflict with others of its paper (see notes)'
  if law.domain != 'VAR codes':
    return f'other data and tokenizer ({law.source})'
  floor = (fit.get('params') or {}).get('E')
  if law.floor == 'fixed' and floor != law.fixed_floor:
    return f'another floor is subtracted: {floor} and not {law.fixed_floor}'
  if runs is None or runs.empty:
    return 'no records say which tokenizer the runs had'
  models = runs[runs['task'] != 'reconstruct']
  for column, official in _OFFICIAL.items():
    values = set(models[column].dropna().tolist())
    if values != {official}:
      listed = ', '.join(str(v) for v in sorted(values)) or 'unknown'
      return f'{column} is {listed} and not {official}'
  return ''


def _middle(fit: Mapping[str, Any]) -> float | None:
  """Geometric mean of the ends of the fitted inputs."""
  params = fit.get('params') or {}
  used = [
    p['x'] for p in fit.get('points') or []
    if p.get('used', True) and notation.is_number(p.get('x')) and p['x'] > 0
  ]  # fmt: skip
  known = all(notation.is_number(params.get(k)) for k in ('A', 'alpha'))
  return math.sqrt(min(used) * max(used)) if used and known else None


def _name(axis: Any) -> str:
  return str(axis.get('name') if isinstance(axis, Mapping) else axis)


def caption(found: list[Comparison]) -> str:
  """What the lines are, for the text below a figure; '' without any."""
  text = ''
  for how, words in (
    (ABSOLUTE, 'Thin grey lines are published laws at their own height'),
    (
      SLOPE,
      'Thin grey lines marked slope have published exponents, with the floor '
      'of the fit and through its middle: only their slope is comparable, '
      'neither height nor floor',
    ),
  ):
    sources = dict.fromkeys(c.law.source for c in found if c.how == how)
    if sources:
      text += f' {words} ({"; ".join(sources)}).'
  return text

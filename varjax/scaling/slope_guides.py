"""Published exponents as lines beside a fitted L(N), for its figure.

A published law can be laid over a fit only where it is of the same
quantity, the same input with the same convention, and treats the floor in
the same way: fitted, fixed, or none. Even then data, tokenizer and units
differ, so each line is shifted to pass through the middle of the fit, and
only its slope is to be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from varjax.scaling import notation, reference

# Quantity and form of a fit against N, to the laws that are comparable.
# VAR subtracts a fixed floor from its losses and none from its errors;
# Henighan fits the floor of the mean loss, for image codes as for pixels.
_COMPARABLE = {
  ('L_mean', 'power_pinned'): ('var_l_mean_n',),
  ('L_last', 'power_pinned'): ('var_l_last_n',),
  ('L_mean', 'power_floor'): (
    'henighan_image_vq_16x16_n',
    'henighan_image_vq_32x32_n',
  ),
  ('Err_mean', 'power'): ('var_err_mean_n',),
  ('Err_last', 'power'): ('var_err_last_n',),
}
_NAMES = {
  'var_l_mean_n': 'VAR 2024',
  'var_l_last_n': 'VAR 2024',
  'var_err_mean_n': 'VAR 2024',
  'var_err_last_n': 'VAR 2024',
  'henighan_image_vq_16x16_n': 'Henighan 2020, VQ 16x16',
  'henighan_image_vq_32x32_n': 'Henighan 2020, VQ 32x32',
}
_POINTS = 48


@dataclasses.dataclass(frozen=True)
class Guide:
  """One line: the floor of the fit and the slope of a published law.

  Attributes:
    law: what the slope is from; label: for the legend.
    x, y: the line, [48] each, in the units of the fit.
  """

  law: reference.Law
  label: str
  x: np.ndarray
  y: np.ndarray


def guides(fit: Mapping[str, Any]) -> list[Guide]:
  """The lines that a fit of fit.json may be compared to, [] if none."""
  y, x = fit.get('y'), fit.get('x')
  quantity = y.get('name') if isinstance(y, Mapping) else y
  name = x.get('name') if isinstance(x, Mapping) else x
  counts = str(fit.get('n_convention') or '').split(':')[0]
  # Henighan counts no embeddings and VAR the blocks alone.
  if str(name).lower() != 'n' or counts != 'body':
    return []
  params = fit.get('params') or {}
  used = [
    p['x'] for p in fit.get('points') or []
    if p.get('used', True) and notation.is_number(p.get('x')) and p['x'] > 0
  ]  # fmt: skip
  if not used or not all(
    notation.is_number(params.get(k)) for k in ('A', 'alpha')
  ):
    return []
  middle = math.sqrt(min(used) * max(used))
  floor = float(params.get('E') or 0.0)
  above = params['A'] * middle ** -params['alpha']
  ends = (fit.get('curve') or {}).get('x') or used
  line = np.geomspace(min(ends), max(ends), _POINTS)
  found = []
  for key in _COMPARABLE.get((str(quantity), str(fit.get('form'))), ()):
    law = reference.law(key)
    exponent = law.params['exponent']
    checked = '' if law.certainty != 'unverified' else ', unverified'
    found.append(
      Guide(
        law,
        f'slope {exponent:g} of {_NAMES[key]}{checked}',
        line,
        floor + above * (line / middle) ** exponent,
      )
    )
  return found


def caption(found: list[Guide]) -> str:
  """What the lines are, for the text below a figure; '' without any."""
  if not found:
    return ''
  sources = '; '.join(dict.fromkeys(g.law.source for g in found))
  return (
    ' Thin grey lines have published exponents, with the floor of the fit '
    'and through its middle: only their slope is comparable, neither height '
    f'nor floor ({sources}).'
  )

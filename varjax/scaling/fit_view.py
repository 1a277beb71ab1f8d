"""How a reader sees the fits of a fit.json: names, axes, residuals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from varjax.scaling import notation


def fits_of(fit: Mapping[str, Any] | None) -> list[dict[str, Any]]:
  """The fits of a fit.json, the primary one first.

  The top level is a fit itself; it is listed unless `fits` already holds
  the same name and form.
  """
  if not fit:
    return []
  listed = [f for f in fit.get('fits') or [] if isinstance(f, dict)]
  key = (fit.get('name'), fit.get('form'))
  if fit.get('params') and not any(
    (f.get('name'), f.get('form')) == key for f in listed
  ):
    primary = {k: v for k, v in fit.items() if k != 'fits'}
    listed.insert(0, primary)
  return listed


def title_of(fit: Mapping[str, Any]) -> str:
  """Name of a fit; its form where it has none."""
  return str(fit.get('name') or fit.get('form') or 'fit')


def axis_labels(fit: Mapping[str, Any]) -> tuple[str, str]:
  """Labels of the input (conventions in brackets) and of the loss."""
  x = fit.get('x')
  name = str((x or {}).get('name') if isinstance(x, Mapping) else x).lower()
  convention = {
    'n': fit.get('n_convention'),
    'd': fit.get('d_convention'),
    'c': fit.get('flop_convention'),
  }.get(name)
  if x is None and 'n' in (fit.get('inputs') or {}):
    return (
      notation.label('n', fit.get('n_convention')),
      notation.label(fit.get('y')),
    )
  return notation.label(x, convention), notation.label(fit.get('y'))


def residual_rows(fit: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Measured over predicted minus one, for every point that has both.

  The axis is x of a 1-D fit and N of a surface.
  """
  rows = [
    (p, p.get('y'), 'fit')
    for p in fit.get('points') or []
    if p.get('used', True)
  ]
  rows += [(h, h.get('measured'), 'holdout') for h in fit.get('holdout') or []]
  result = []
  for point, measured, role in rows:
    x = point.get('x') if point.get('x') is not None else point.get('n')
    predicted, sem = point.get('predicted'), point.get('sem')
    if not all(map(notation.is_number, (x, measured, predicted))):
      continue
    result.append(
      {
        **ids(point),
        'role': role,
        'x': x,
        'measured': measured,
        'predicted': predicted,
        'residual': measured / predicted - 1,
        'sem': sem / predicted if notation.is_number(sem) else None,
      }
    )
  return result


def ids(point: Mapping[str, Any]) -> dict[str, Any]:
  """Who a point is."""
  return {'run_id': point.get('run_id'), 'name': point.get('name')}

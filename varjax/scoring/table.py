"""Scores as text: what was compared, through what, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from varjax.evaluations import EvaluationRecord
from varjax.features import inception
from varjax.scoring.scores import Scores


def of_scores(found: Scores) -> str:
  """The table of one comparison."""
  return _page(
    {
      'samples': found.samples,
      'reference': found.reference,
      'network': _network(found.network, found.identity),
      'images': _counts(found.images, found.reference_images),
    },
    found.values,
    found.errors,
    found.warnings,
  )


def of_record(record: EvaluationRecord) -> str:
  """The table of one evaluation of a run."""
  what = f'{record.kind} of run {record.run_id}'
  if record.steps is not None:
    what += f' at update {record.steps}'
  chosen = ', '.join(
    f'{key}={record.settings[key]}'
    for key in (
      'cfg',
      'top_k',
      'top_p',
      'smooth',
      'guided',
      'seed',
      'rejection',
    )
    if record.settings.get(key) is not None
  )
  head = {
    'evaluated': what,
    'settings': chosen,
    'reference': record.reference or '',
    'network': _network(record.network or '', record.network_identity or ''),
    'images': _counts(record.images, record.reference_images),
  }
  return _page(
    {key: value for key, value in head.items() if value},
    record.values,
    record.errors,
    record.warnings,
  )


def of_sweep(points: Sequence[EvaluationRecord], keys: Sequence[str]) -> str:
  """One row per point: its settings, then its scores."""
  names = sorted({name for point in points for name in point.values})
  rows = [[*keys, *names]]
  for point in points:
    row = [f'{point.settings[key]:g}' for key in keys]
    row += [
      f'{point.values[name]:.4g}' if name in point.values else '-'
      for name in names
    ]
    rows.append(row)
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    '  '.join(
      cell.rjust(width) for cell, width in zip(row, widths, strict=True)
    )
    for row in rows
  )


def _page(
  head: Mapping[str, str],
  values: Mapping[str, float],
  errors: Mapping[str, float],
  warnings: Sequence[str],
) -> str:
  lines = [f'{key:10} {value}' for key, value in head.items()]
  lines.append('')
  width = max([len(name) for name in values] + [5])
  lines.append(f'{"score":{width}}  {"value":>12}  {"s.e.":>10}')
  for name, value in values.items():
    error = f'{errors[name]:10.4g}' if name in errors else ' ' * 9 + '-'
    lines.append(f'{name:{width}}  {value:12.6g}  {error}')
  lines += [f'note: {text}' for text in warnings]
  return '\n'.join(lines)


def _network(name: str, identity: str) -> str:
  if name == inception.NAME:
    return f'{identity} (the network of FID)'
  return f'{identity} (not the network of FID: no score here is an FID)'


def _counts(images: int | None, reference: int | None) -> str:
  theirs = 'moments of an unknown number' if reference is None else reference
  return f'{images} against {theirs}'

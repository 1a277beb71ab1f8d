"""Where every trial of a sweep stands, as rows and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from varjax import records
from varjax.launch import base, manifest

_ERROR_CHARS = 100


@dataclasses.dataclass(frozen=True)
class Row:
  """One trial.

  Attributes:
    status: 'complete', 'failed', 'running', 'queued' (waits for a place),
      'stopped' (has begun, is not running) or 'pending'.
    steps, total_steps: updates done, and of the whole run.
    loss: validation loss in nats per token, null before the end; for a
      running trial its training loss.
    err: validation token error, as a share.
    images_per_s, eta_s: of a running trial.
    attempt, where: of a running trial; note: why it is a straggler.
    error: last error of a failed trial.
  """

  index: int
  name: str
  role: str
  run_id: str
  status: str
  params_body: int | None = None
  steps: int | None = None
  total_steps: int | None = None
  loss: float | None = None
  err: float | None = None
  psnr_db: float | None = None
  images_per_s: float | None = None
  eta_s: float | None = None
  attempt: int | None = None
  where: str | None = None
  note: str | None = None
  error: str | None = None


def rows(
  trials: Sequence[base.Trial],
  found: Sequence[records.RunRecord],
  running: Mapping[str, Mapping[str, Any]],
) -> list[Row]:
  """One row per trial, in the order of the sweep.

  Args:
    trials: of the sweep.
    found: records of the sweep directory.
    running: what `manifest.running` knows of the trials that run now.
  """
  by_id = {record.run_id: record for record in found}
  return [_row(t, by_id.get(t.run_id), running.get(t.run_id)) for t in trials]


def text(table: Sequence[Row]) -> str:
  """The rows as aligned text; columns without any value are left out."""
  return align([_cells(row) for row in table])


def align(cells: Sequence[Mapping[str, str]]) -> str:
  """Text columns under their names; a column that is empty is left out."""
  first = cells[0] if cells else {}
  columns = [c for c in first if any(row[c] for row in cells)]
  widths = {c: max(len(c), *(len(row[c]) for row in cells)) for c in columns}
  lines = ['  '.join(c.ljust(widths[c]) for c in columns)]
  lines += [
    '  '.join(row[c].ljust(widths[c]) for c in columns) for row in cells
  ]
  return '\n'.join(line.rstrip() for line in lines)


def summary(table: Sequence[Row]) -> str:
  """'12 trials: 9 complete, 1 failed, 2 pending'."""
  counts: dict[str, int] = {}
  for row in table:
    counts[row.status] = counts.get(row.status, 0) + 1
  order = ('complete', 'failed', 'running', 'queued', 'stopped', 'pending')
  parts = [f'{counts[s]} {s}' for s in order if s in counts]
  noun = 'trial' if len(table) == 1 else 'trials'
  return f'{len(table)} {noun}: {", ".join(parts) or "none"}'


def duration(seconds: float) -> str:
  """'2:03:04', or '3:04' below an hour."""
  minutes, rest = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minutes:02}:{rest:02}'
  return f'{minutes}:{rest:02}'


def _row(
  trial: base.Trial,
  record: records.RunRecord | None,
  running: Mapping[str, Any] | None,
) -> Row:
  row = Row(trial.index, trial.name, trial.role, trial.run_id, 'pending')
  complete = record is not None and record.status == 'complete'
  progress = manifest.read_json(trial.progress)
  if not complete and isinstance(progress, Mapping):
    row = dataclasses.replace(
      row,
      status='stopped',
      steps=_number(progress, 'step'),
      total_steps=_number(progress, 'total_steps'),
    )
  if running is not None and not complete:
    row = dataclasses.replace(
      row,
      attempt=_number(running, 'attempt'),
      where=running.get('where'),
      note=running.get('straggling') or None,
    )
    if running.get('where') is None:
      return dataclasses.replace(row, status='queued')
    if isinstance(progress, Mapping):
      row = dataclasses.replace(
        row,
        loss=_number(progress, 'loss'),
        images_per_s=_number(progress, 'images_per_s'),
        eta_s=_number(progress, 'eta_s'),
      )
    return dataclasses.replace(row, status='running')
  if record is None or record.status == 'running':
    return row
  return dataclasses.replace(
    row,
    status=record.status or 'failed',
    params_body=record.params_body,
    steps=record.steps if record.steps is not None else row.steps,
    total_steps=record.total_steps or row.total_steps,
    loss=record.val_loss_nats_per_token,
    err=record.val_err,
    psnr_db=record.val_psnr_db,
    error=record.error,
  )


def _number(values: Mapping[str, Any], key: str) -> Any:
  value = values.get(key)
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return value if is_number else None


def _cells(row: Row) -> dict[str, str]:
  of = '' if row.total_steps is None else f'/{row.total_steps}'
  return {
    '#': str(row.index),
    'name': row.name,
    'role': row.role,
    'run id': row.run_id,
    'status': row.status,
    'body params': _format(row.params_body, ','),
    'step': '' if row.steps is None else f'{row.steps}{of}',
    'loss': _format(row.loss, '.4f'),
    'err': _format(row.err, '.4f'),
    'psnr': _format(row.psnr_db, '.2f'),
    'images/s': _format(row.images_per_s, '.1f'),
    'eta': '' if row.eta_s is None else duration(row.eta_s),
    'try': '' if (row.attempt or 1) < 2 else str(row.attempt),
    'where': row.where or '',
    'note': (row.note or '')[:_ERROR_CHARS],
    'last error': (row.error or '')[:_ERROR_CHARS],
  }


def _format(value: float | None, how: str) -> str:
  return '' if value is None else format(value, how)

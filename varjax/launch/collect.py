"""From the records that runs leave behind to the records of the sweep.

`records.jsonl`, `curves.jsonl` and `records.parquet` of a sweep directory
hold every run under it exactly once, whatever was killed and run again.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import datetime
import pathlib

from varjax import errors, records
from varjax.launch import base

RECORDS = 'records.jsonl'
CURVES = 'curves.jsonl'
PARQUET = 'records.parquet'
# What a run id determines, to the last bit on one kind of device.
_RESULTS = (
  'steps', 'val_loss_nats_per_token', 'val_loss_scales', 'val_err',
  'val_psnr_db',
)  # fmt: skip


def collect(
  sweep_dir: pathlib.Path,
) -> tuple[list[records.RunRecord], list[str]]:
  """Merges the records of all runs under `sweep_dir` into its own.

  Returns:
    The merged records, and one sentence for every file that was left out
    because it cannot be read.

  Raises:
    RecordError: the directory's own records cannot be read; they are left
      as they are.
  """
  sources, problems = _readable(sweep_dir, RECORDS)
  problems += _contradictions(sources, sweep_dir / RECORDS)
  merged = records.merge(sources, sweep_dir / RECORDS)
  curves, curve_problems = _readable(sweep_dir, CURVES)
  records.merge(curves, sweep_dir / CURVES, by_step=True)
  records.write_parquet(records.frame(merged), sweep_dir / PARQUET)
  return merged, problems + curve_problems


def peek(sweep_dir: pathlib.Path) -> list[records.RunRecord]:
  """What `collect` would return, without writing anything."""
  sources, _ = _readable(sweep_dir, RECORDS)
  own = sweep_dir / RECORDS
  found = records.read(own) if own.is_file() else []
  for source in sources:
    found += records.read(source)
  return records.latest(found)


def strangers(trials: Sequence[base.Trial]) -> list[str]:
  """A sentence for every trial whose folder holds another run's record.

  As when it was run with other code than that which planned the sweep.
  """
  found = []
  for trial in trials:
    try:
      others = {r.run_id for r in records.read(trial.records)}
    except errors.RecordError:
      continue
    if others and trial.run_id not in others:
      found.append(
        f'{trial.name}: {trial.records} is of run {", ".join(sorted(others))} '
        f'and not of {trial.run_id}: it was run with other code or inputs '
        'than the sweep was planned with'
      )
  return found


def record_failure(outcome: base.Outcome, sweep: str) -> None:
  """Appends a 'failed' record to the trial's own records.

  What the run recorded before it failed is kept in it.
  """
  trial = outcome.trial
  try:
    earlier = [
      r
      for r in (records.read(trial.records) if trial.records.is_file() else [])
      if r.run_id == trial.run_id
    ]
  except errors.RecordError:
    # The file is the failure: keep it for inspection, start a new one.
    trial.records.rename(trial.records.with_suffix('.unreadable'))
    earlier = []
  known = earlier[-1] if earlier else records.RunRecord(run_id=trial.run_id)
  failed = dataclasses.replace(
    known,
    name=known.name or trial.name,
    sweep=known.sweep or sweep,
    role=known.role or trial.role,
    status='failed',
    error=outcome.error,
    restarts=max(known.restarts or 0, outcome.attempts - 1),
    date=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  )
  records.append(trial.records, failed)


def _contradictions(
  sources: Sequence[pathlib.Path], own: pathlib.Path
) -> list[str]:
  """A sentence for every run with two complete records that differ.

  One run id means one result; where there are two, neither can be trusted.
  """
  first: dict[str, records.RunRecord] = {}
  found: dict[str, str] = {}
  for path in [*([own] if own.is_file() else []), *sources]:
    for record in records.read(path):
      if record.status != 'complete':
        continue
      before = first.setdefault(record.run_id, record)
      for name in _RESULTS:
        one, two = getattr(before, name), getattr(record, name)
        if one != two:
          found.setdefault(
            record.run_id,
            f'run {record.run_id} ({record.name}) has two complete records '
            f'that differ: {name} is {one} and {two} in {path}; the later '
            'one is kept',
          )
  return list(found.values())


def _readable(
  sweep_dir: pathlib.Path, name: str
) -> tuple[list[pathlib.Path], list[str]]:
  """Record files of the runs under `sweep_dir`, and what is wrong."""
  found = [
    *sorted(sweep_dir.glob(f'*/{name}')),
    *sorted(sweep_dir.glob(f'trials/*/{name}')),
  ]
  sources, problems = [], []
  for path in found:
    try:
      records.read(path)
    except errors.RecordError as error:
      problems.append(f'left out: {error}')
    else:
      sources.append(path)
  return sources, problems

"""What `varjax sweep --dry_run` prints: a sweep on paper, without JAX."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import shlex

from varjax import errors, flops, progressive, reconstruct_costs, schedule
from varjax import spec as specs
from varjax.launch import collect, manifest, plan, table
from varjax.tools import dry_run


class Resolver:
  """Finds run ids and notes the inputs that are not there yet."""

  def __init__(self, resolve_run_id: plan.ResolveRunId | None = None):
    self._resolve_run_id = resolve_run_id
    self.missing: dict[str, tuple[str, ...]] = {}

  def __call__(self, run: specs.RunSpec) -> str:
    if self._resolve_run_id:
      return self._resolve_run_id(run)
    from varjax import runs

    resolved = runs.resolve(run, allow_missing=True)
    if resolved.missing:
      self.missing[resolved.run_id] = resolved.missing
    return resolved.run_id


def describe(
  planned: Sequence[plan.Planned],
  sweep_dir: pathlib.Path,
  missing: dict[str, tuple[str, ...]],
) -> str:
  """The trials with their sizes and work, what is missing, the commands.

  Args:
    planned: the trials that would run.
    sweep_dir: the sweep's folder, which need not exist.
    missing: run ids that are provisional, with the reasons.
  """
  images = _TrainingImages()
  status = _status(planned, sweep_dir)
  lines = [
    table.align([_cells(item, images(item.spec), status) for item in planned])
  ]
  work = [_train_flops(item.spec, images(item.spec)) for item in planned]
  known = [w for w in work if w is not None]
  lines.append(
    f'{len(planned)} trials, {sum(known):.4g} training FLOPs'
    + (f' in the {len(known)} of known length' * (len(known) < len(work)))
  )
  reasons = dict.fromkeys(r for found in missing.values() for r in found)
  if reasons:
    lines.append('run ids are provisional, inputs are missing:')
    lines += [f'  {reason}' for reason in reasons]
  return '\n'.join(lines + [shlex.join(p.trial.command) for p in planned])


def _status(
  planned: Sequence[plan.Planned], sweep_dir: pathlib.Path
) -> dict[str, str]:
  rows = table.rows(
    [item.trial for item in planned],
    collect.peek(sweep_dir),
    manifest.running(sweep_dir),
  )
  return {row.run_id: row.status for row in rows}


def _cells(
  item: plan.Planned, images: int, status: dict[str, str]
) -> dict[str, str]:
  trial, run = item.trial, item.spec
  if run.task == 'generate':
    counts = flops.parameter_counts(run.model, dry_run.sequence_of(run))
    sizes = {'params': f'{counts.total:,}', 'body': f'{counts.body:,}'}
  else:
    counts = flops.tokenizer_parameter_counts(run.tokenizer)
    sizes = {'params': f'{counts.total:,}', 'body': ''}
  steps = _steps(run, images)
  work = _train_flops(run, images)
  return {
    '#': str(trial.index),
    'name': trial.name,
    'role': trial.role,
    'run id': trial.run_id,
    'status': status[trial.run_id],
    **sizes,
    'updates': '?' if steps is None else f'{steps.total:,}',
    'train FLOPs': '?' if work is None else f'{work:.4g}',
  }


def _steps(run: specs.RunSpec, images: int) -> schedule.Steps | None:
  """Lengths of the run, None when its data would have to be counted."""
  try:
    return schedule.resolve_run(run, images)
  except errors.ConfigError:
    return None


def _train_flops(run: specs.RunSpec, images: int) -> float | None:
  steps = _steps(run, images)
  if steps is None:
    return None
  if run.task == 'generate':
    sequence = dry_run.sequence_of(run)
    return float(progressive.work(run, steps, steps.total, sequence).total)
  return float(reconstruct_costs.work(run, steps, steps.total).total)


class _TrainingImages:
  """Images of a run's training split, 0 where it is not at hand."""

  def __init__(self):
    self._known: dict[tuple[specs.DataSpec, str], int] = {}

  def __call__(self, run: specs.RunSpec) -> int:
    cached = run.codes_dir if run.input == 'codes' else ''
    key = (run.data, cached if run.task == 'generate' else '')
    if key not in self._known:
      known = schedule.KNOWN_IMAGES.get(run.data.name)
      self._known[key] = known or _count(*key)
    return self._known[key]


def _count(data: specs.DataSpec, codes_dir: str) -> int:
  from varjax.data import codes, sources

  try:
    if codes_dir:
      return len(codes.open_codes(codes_dir, 'train', tokenizer_id=None))
    return len(sources.open_source(data, 'train'))
  except errors.DataError:
    return 0

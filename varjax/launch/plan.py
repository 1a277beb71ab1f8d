"""From the trials of a sweep file to runs with an id, folder and command.

Everything is resolved and validated here, before anything starts: one bad
trial refuses the whole sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
import sys
from typing import Any

from varjax import config, errors, flops, sweep
from varjax import spec as specs
from varjax.launch import base

TRAINER = (sys.executable, '-m', 'varjax', 'train')

ResolveRunId = Callable[[specs.RunSpec], str]


@dataclasses.dataclass(frozen=True)
class Planned:
  """A trial and the complete spec it will run."""

  trial: base.Trial
  spec: specs.RunSpec


def plan(
  trials: sweep.Sweep,
  sweep_file: str,
  sweep_dir: pathlib.Path,
  resolve_run_id: ResolveRunId,
  trainer: Sequence[str] = TRAINER,
) -> list[Planned]:
  """Resolves every trial.

  Args:
    trials: as `sweep.load` returns them.
    sweep_file: path of the sweep file; experiment paths that do not exist
      from the current directory are looked up beside the sweep's folder.
    sweep_dir: folder of the sweep's runs and records.
    resolve_run_id: the run id of a spec, as `varjax train` computes it.
    trainer: command that runs one trial, without its arguments.

  Raises:
    ConfigError: a trial that does not resolve, or two with one run id.
  """
  planned: list[Planned] = []
  by_id: dict[str, str] = {}
  for index, values in enumerate(trials):
    try:
      item = _plan_one(
        index, values, sweep_file, sweep_dir, resolve_run_id, trainer
      )
    except errors.VarjaxError as error:
      raise type(error)(
        f'{sweep_file}: trial {index} ({values.get("name")}): {error}'
      ) from error
    trial = item.trial
    if trial.run_id in by_id:
      raise errors.ConfigError(
        f'{sweep_file}: trials {by_id[trial.run_id]} and {trial.name} are '
        'the same run; they may not differ in name, role or paths alone'
      )
    by_id[trial.run_id] = trial.name
    planned.append(item)
  return planned


def _plan_one(
  index: int,
  values: Mapping[str, Any],
  sweep_file: str,
  sweep_dir: pathlib.Path,
  resolve_run_id: ResolveRunId,
  trainer: Sequence[str],
) -> Planned:
  experiment = _locate(values['config'], sweep_file)
  overrides = {
    k: v for k, v in values.items() if k not in ('config', 'priority')
  }
  spec = config.to_spec(
    config.override(config.load(experiment), overrides), experiment
  )
  run_id = resolve_run_id(spec)
  workdir = _workdir(sweep_dir, spec.name, run_id)
  command = (
    *trainer,
    '--config',
    experiment,
    *(f'--config.{k}={sweep.to_text(v)}' for k, v in overrides.items()),
    '--workdir',
    str(workdir),
  )
  trial = base.Trial(
    index=index,
    name=spec.name,
    config=experiment,
    overrides=overrides,
    role=spec.role,
    run_id=run_id,
    workdir=workdir,
    command=command,
    priority=_priority(values),
    flops_per_image=_flops_per_image(spec),
  )
  return Planned(trial, spec)


def _priority(values: Mapping[str, Any]) -> int:
  value = values.get('priority', 0)
  try:
    return int(str(value))
  except ValueError:
    raise errors.ConfigError(
      f'priority={value!r}: must be a whole number; trials with a higher one '
      'start first'
    ) from None


def _flops_per_image(run: specs.RunSpec) -> float | None:
  if run.task == 'generate':
    work = flops.train_flops_per_image(run.model, run.tokenizer).total
  else:
    work = flops.tokenizer_flops_per_image(run.tokenizer, 'train')
  return float(work)


def _locate(experiment: str, sweep_file: str) -> str:
  path, colon, arg = experiment.partition(':')
  beside = pathlib.Path(sweep_file).resolve().parent.parent / path
  if not pathlib.Path(path).is_file() and beside.is_file():
    path = str(beside)
  return f'{path}{colon}{arg}'


def _workdir(sweep_dir: pathlib.Path, name: str, run_id: str) -> pathlib.Path:
  """The run's folder; an earlier one is found again under any name."""
  runs = sweep_dir / 'trials'
  before = sorted(runs.glob(f'*-{run_id}'))
  return before[0] if before else runs / f'{name}-{run_id}'

"""From the facts of a run to its RunRecord, the bridge to fitting."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
from typing import Any

import jax
import numpy as np

from varjax import (
  compilation,
  config,
  devices,
  flops,
  identity,
  progressive,
  reconstruct_costs,
  records,
  schedule,
)
from varjax import spec as specs
from varjax.clock import PHASES, Clock
from varjax.evals import code_use
from varjax.evaluate import Evaluation
from varjax.inputs import Inputs
from varjax.orders import make_order, sequence_of
from varjax.records import RunRecord
from varjax.runs import Resolved
from varjax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of a run before it trains."""

  run: specs.RunSpec
  resolved: Resolved
  inputs: Inputs
  total_steps: int
  device_count: int


@dataclasses.dataclass(frozen=True)
class Measured:
  """What an evaluation after `step` updates found."""

  step: int
  evaluation: Evaluation
  train: dict[str, float]
  clock: Clock
  data_stall: float  # of the process that waited most


def complete_record(workdir: Workdir, run_id: str) -> RunRecord | None:
  """The complete record of this run in its workdir, if there is one."""
  if not workdir.records.is_file():
    return None
  for record in records.latest(records.read(workdir.records)):
    if record.run_id == run_id and record.status == 'complete':
      return record
  return None


def append_curve(workdir: Workdir, facts: Facts, measured: Measured) -> None:
  """Adds an evaluation to `curves.jsonl`."""
  if jax.process_index() == 0:
    record = dataclasses.replace(_record(facts, measured), status='running')
    records.append(workdir.curves, record)


def complete(
  workdir: Workdir, facts: Facts, measured: Measured, fields: dict[str, Any]
) -> RunRecord:
  """Adds the complete record to `records.jsonl` and returns it."""
  record = dataclasses.replace(
    _record(facts, measured), status='complete', **fields
  )
  if jax.process_index() == 0:
    records.append(workdir.records, record)
  return record


def _record(facts: Facts, measured: Measured) -> RunRecord:
  run, step = facts.run, measured.step
  clock, cache = measured.clock, compilation.cache_use()
  images = step * run.batch_size
  # What a loss is the mean over, so that nats per token have one meaning.
  sequence = sequence_of(run.order, run.tokenizer)
  positions = sequence.predicted
  base = RunRecord(
    run_id=facts.resolved.run_id,
    name=run.name or None,
    task=run.task,
    role=run.role,
    sweep=os.environ.get('VARJAX_SWEEP'),
    seed=run.seed,
    dataset=run.data.name,
    eval_set=facts.inputs.eval_set,
    tokenizer_id=facts.inputs.tokenizer_id or None,
    code_vocab=run.tokenizer.vocab,
    positions_per_image=positions,
    codes_per_position=sequence.targets_per_position,
    images_seen=images,
    unique_images=facts.inputs.unique_images,
    epochs=images / facts.inputs.unique_images,
    tokens_seen=images * positions,
    steps=step,
    total_steps=facts.total_steps,
    batch_images=run.batch_size,
    lr_peak=schedule.peak_lr(run.optim, run.batch_size),
    val_images=measured.evaluation.images,
    wall_s=clock.wall_s,
    device_kind=jax.devices()[0].device_kind,
    device_count=facts.device_count,
    device_hours=clock.wall_s * facts.device_count / 3600,
    goodput=clock.goodput,
    data_stall=measured.data_stall,
    eval_data_stall=measured.evaluation.data_stall,
    **{f'{phase}_s': clock.seconds[phase] for phase in PHASES},
    compile_cache_requests=cache.requests,
    compile_cache_hits=cache.hits,
    restarts=clock.restarts,
    git_commit=_git_commit(),
    code_version=identity.code_version(),
    jax_version=jax.__version__,
    date=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    config_json=config.to_json(run),
  )
  by_task = {'generate': _generate_fields, 'reconstruct': _reconstruct_fields}
  fields = by_task[run.task](facts, measured)
  fields['mfu'] = _utilisation(fields['flops_train_total'], facts, clock)
  return dataclasses.replace(base, **fields)


def _generate_fields(facts: Facts, measured: Measured) -> dict[str, Any]:
  run, images = facts.run, measured.step * facts.run.batch_size
  sequence = sequence_of(run.order, run.tokenizer)
  counts = flops.parameter_counts(run.model, sequence)
  steps = schedule.resolve_run(run, facts.inputs.unique_images)
  work = progressive.work(run, steps, measured.step, sequence)
  mean, sem = measured.evaluation.mean, measured.evaluation.sem
  encode = flops.tokenizer_flops_per_image(run.tokenizer, 'encode')
  return {
    'order': run.order.name,
    'loss_kind': make_order(run.order, run.tokenizer).loss_kind,
    'depth': run.model.depth,
    'width': run.model.width,
    'params_total': counts.total,
    'params_body': counts.body,
    'params_adaln': counts.adaln,
    'params_embed_head': counts.embed_head,
    # Fewer than images * positions where coarse scales are trained first.
    'tokens_seen': work.tokens,
    'flops_train_total': float(work.total),
    'flops_train_body': float(work.body),
    # Cached codes were paid for once, by `varjax encode`.
    'flops_tokenizer': float(encode * images * (run.input == 'images')),
    'train_loss_nats_per_token': measured.train.get('loss'),
    'val_loss_nats_per_token': _number(mean['loss']),
    'val_loss_last_nats_per_token': _number(mean['loss_last']),
    'val_loss_scales': _numbers(mean['loss_scales']),
    'val_loss_sem': _number(sem['loss']),
    'val_loss_uncond_nats_per_token': _number(mean['loss_uncond']),
    'val_err': _number(mean['err']),
    'val_err_last': _number(mean['err_last']),
  }


def _reconstruct_fields(facts: Facts, measured: Measured) -> dict[str, Any]:
  run = facts.run
  counts = flops.tokenizer_parameter_counts(run.tokenizer)
  steps = schedule.resolve_run(run, facts.inputs.unique_images)
  work = reconstruct_costs.work(run, steps, measured.step)
  mean = measured.evaluation.mean
  use = code_use.of_counts(measured.evaluation.totals['code_count'])
  networks = facts.resolved.inputs
  return {
    'params_total': counts.total,
    'flops_train_total': float(work.total),
    'flops_tokenizer': float(work.tokenizer),
    'val_psnr_db': _number(mean['psnr']),
    'val_psnr_scales': _numbers(mean['psnr_scale']),
    'val_ssim': _optional(mean, 'ssim'),
    'val_perceptual': _optional(mean, 'perceptual'),
    'perceptual': networks.get('perceptual'),
    'discriminator': networks.get('discriminator'),
    'code_usage': use.share,
    'code_usage_scales': _numbers(use.shares),
    'code_perplexity': use.perplexity,
    'code_perplexity_scales': _numbers(use.perplexities),
  }


def _optional(values: dict[str, np.ndarray], name: str) -> float | None:
  """A metric that only some runs have."""
  return _number(values[name]) if name in values else None


def _utilisation(work: float, facts: Facts, clock: Clock) -> float | None:
  """Share of the devices' peak, null where no peak is known."""
  device = devices.find(jax.devices()[0].device_kind)
  seconds = clock.seconds['step']
  if device is None or not device.peak_flops or not seconds:
    return None
  return work / (seconds * device.peak_flops * facts.device_count)


def _number(value: np.ndarray) -> float | None:
  """A float, or null when it is not finite."""
  return float(value) if np.isfinite(value) else None


def _numbers(values: np.ndarray) -> str:
  return json.dumps([_number(v) for v in np.asarray(values)])


def _git_commit() -> str | None:
  """The commit of the checkout that the package runs from, if any."""
  package = pathlib.Path(__file__).resolve().parent
  if not (package.parent / '.git').exists():
    return None
  try:
    result = subprocess.run(
      ['git', '-C', str(package.parent), 'rev-parse', 'HEAD'],
      capture_output=True,
      text=True,
      timeout=10,
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return result.stdout.strip() or None

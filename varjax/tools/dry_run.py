"""What `--dry_run` prints: a run on paper, without JAX or data."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from varjax import (
  errors,
  flops,
  identity,
  memory,
  progressive,
  reconstruct_costs,
  schedule,
)
from varjax import spec as specs


def describe(run: specs.RunSpec) -> str:
  """The resolved config, then sizes, work, memory and id, as text."""
  lines = [json.dumps(dataclasses.asdict(run), indent=1), '']
  identifier, missing = _identify(run)
  images = schedule.KNOWN_IMAGES.get(run.data.name, 0) or _count_images(run)
  try:
    resolved = schedule.resolve_run(run, images)
    steps = resolved.total
  except errors.ConfigError as error:
    resolved, steps = None, 0
    missing = (*missing, str(error))
  sequence = None
  rows = []
  if run.task == 'generate':
    sequence = sequence_of(run)
    rows = _transformer(run, resolved, sequence) + _codes(run)
  rows += _tokenizer(run, resolved)
  rows += [
    ('updates', f'{steps:,}' if steps else 'unknown'),
    ('images seen', f'{steps * run.batch_size:,}' if steps else 'unknown'),
    *_memory(run, sequence),
  ]
  suffix = ' (provisional: an input is missing)' if missing else ''
  rows.append(('run id', identifier + suffix))
  rows += [('missing', reason) for reason in missing]
  width = max(len(name) for name, _ in rows)
  lines += [f'{name:{width}}  {value}' for name, value in rows]
  return '\n'.join(lines)


def sequence_of(run: specs.RunSpec) -> flops.Sequence:
  """The sequence of a run's order; orders but next-scale need JAX."""
  if run.order.name == 'scale':
    return flops.sequence_of(run.tokenizer)
  from varjax import orders

  return orders.sequence_of(run.order, run.tokenizer)


def _transformer(
  run: specs.RunSpec, steps: schedule.Steps | None, sequence: flops.Sequence
) -> list[tuple[str, str]]:
  counts = flops.parameter_counts(run.model, sequence)
  work = flops.train_flops_per_image(run.model, sequence)
  rows = [
    ('parameters', f'{counts.total:,}'),
    ('  body', f'{counts.body:,} (of these AdaLN {counts.adaln:,})'),
    ('  embeddings and head', f'{counts.embed_head:,}'),
    ('training FLOPs per image', f'{work.total:.4g}'),
  ]
  if steps:
    total = progressive.work(run, steps, steps.total, sequence).total
    rows.append(('training FLOPs', f'{total:.4g}'))
  return rows


def _codes(run: specs.RunSpec) -> list[tuple[str, str]]:
  """How the training codes were made, where that is on record."""
  from varjax.data import encoding

  if run.input != 'codes' or not run.codes_dir:
    return []
  try:
    text = encoding.describe(pathlib.Path(run.codes_dir) / 'train')
  except errors.DataError as error:
    text = str(error)
  return [('codes encoded', text)] if text else []


def _memory(
  run: specs.RunSpec, sequence: flops.Sequence | None
) -> list[tuple[str, str]]:
  """The estimate in parts, or of each policy that 'auto' may take."""
  if run.task == 'generate' and run.model.remat == 'auto':
    rows = [('memory per device', 'by model.remat (estimates)')]
    for remat in memory.REMAT:
      model = dataclasses.replace(run.model, remat=remat)
      made = dataclasses.replace(run, model=model)
      total = memory.memory_estimate(made, sequence=sequence).total
      rows.append((f'  {remat}', f'{total / 2**30:.2f} GiB'))
    return rows
  estimate = memory.memory_estimate(run, sequence=sequence)
  return [
    ('memory per device', f'{estimate.total / 2**30:.2f} GiB (estimate)'),
    *(
      (f'  {name}', f'{value / 2**30:.3f} GiB')
      for name, value in dataclasses.asdict(estimate).items()
      if isinstance(value, int)
    ),
  ]


def _tokenizer(
  run: specs.RunSpec, steps: schedule.Steps | None
) -> list[tuple[str, str]]:
  counts = flops.tokenizer_parameter_counts(run.tokenizer)
  rows = [('tokenizer parameters', f'{counts.total:,}')]
  if run.task == 'reconstruct':
    rows += _stage1(run, steps)
  positions = flops.sequence_of(run.tokenizer).positions
  rows.append(('code positions per image', f'{positions:,}'))
  return rows


def _stage1(
  run: specs.RunSpec, steps: schedule.Steps | None
) -> list[tuple[str, str]]:
  gan = run.reconstruct.adversarial
  rows = []
  if gan.discriminator:
    weights = reconstruct_costs.discriminator_parameters(gan)
    rows.append(('discriminator parameters', f'{weights:,}'))
  if steps:
    work = reconstruct_costs.work(run, steps, steps.total)
    rows.append(('training FLOPs', f'{work.total:.4g}'))
    rows += [
      (f'  {name}', f'{value:.4g}')
      for name, value in dataclasses.asdict(work).items()
      if value
    ]
  else:
    one = flops.tokenizer_flops_per_image(run.tokenizer, 'train')
    rows.append(('training FLOPs per image', f'{one:.4g} (tokenizer)'))
  return rows


def _identify(run: specs.RunSpec) -> tuple[str, tuple[str, ...]]:
  from varjax import runs

  resolved = runs.resolve(run, allow_missing=True)
  if resolved.missing:
    return identity.run_id(run, resolved.inputs), resolved.missing
  return resolved.run_id, ()


def _count_images(run: specs.RunSpec) -> int:
  """Images of the training split, 0 when the data is not at hand."""
  from varjax.data import codes, sources

  try:
    if run.task == 'generate' and run.input == 'codes':
      return len(codes.open_codes(run.codes_dir, 'train', tokenizer_id=None))
    return len(sources.open_source(run.data, 'train'))
  except errors.DataError:
    return 0

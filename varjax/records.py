"""RunRecord: the only bridge from training to fitting.

A record is flat and typed, with units in the names; a value that was not
measured is null, never 0. `records.jsonl` holds one line per finished (or
failed) run and only ever grows; the last line of a run id counts.
`curves.jsonl` has the same schema, one line per evaluation. No JAX in here.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import types as py_types
import typing
from typing import Any

from varjax import errors, evaluations, jsonlines

if typing.TYPE_CHECKING:
  import pandas as pd

SCHEMA = 1
STATUSES = ('running', 'complete', 'failed')


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """One run, or one evaluation inside it.

  Attributes:
    schema: version of this table.
    run_id: hash of config, inputs and code; `name` is for people.
    sweep: name of the sweep, null outside one.
    task: 'reconstruct' or 'generate'.
    role: 'fit', 'holdout' or 'debug'.
    status: 'running', 'complete' or 'failed'; error: the last line of it.
    tokenizer_id: content hash of the tokenizer's weights and spec.
    eval_set: content hash of the split that was evaluated.
    positions_per_image, codes_per_position, code_vocab: of the tokenizer.
    order, loss_kind: how codes are ordered; 'exact', 'bound', 'surrogate'.
    depth, width: of the transformer.
    params_total: all; params_body: the blocks; params_adaln: the AdaLN
      projections inside the blocks; params_embed_head: everything else.
    images_seen: with repeats; unique_images: in the training split.
    epochs: images_seen / unique_images; tokens_seen: positions * images.
    steps: optimiser updates; total_steps: of the whole run.
    flops_*: floating point operations, conventions in docs/flops.md.
    val_loss_nats_per_token: mean over positions; *_last: the last scale;
      *_scales: JSON list per scale; *_sem: standard error over images;
      *_uncond: with the "no class" label.
    val_err: share of wrong top-1 codes.
    val_psnr_db, val_psnr_scales: reconstruction; val_ssim: of the same
      images; val_perceptual: distance in the maps of `perceptual`, the
      identity of that network; discriminator: likewise, what it trained
      against; code_usage: share of codes in use over all scales;
      code_perplexity: exp of their entropy.
    wall_s, device_hours: time of the whole run, restarts included.
    mfu: flops_train_total / (time in steps * peak), null without a peak.
    goodput: time in steps / wall_s; data_stall: share of the time in steps
      in which the devices had nothing to do because a batch was late;
      eval_data_stall: the same share of the last evaluation.
    setup_s, compile_s, data_s, step_s, evaluate_s, checkpoint_s, restart_s:
      where wall_s went; restart_s is updates made twice after a kill, and
      setting up again; what is left is between the phases.
    compile_cache_requests, compile_cache_hits: programs that the last
      process of the run asked the compilation cache for, and found.
  """

  schema: int = SCHEMA
  run_id: str = ''
  name: str | None = None
  sweep: str | None = None
  task: str | None = None
  role: str | None = None
  status: str | None = None
  error: str | None = None
  seed: int | None = None
  dataset: str | None = None
  eval_set: str | None = None
  tokenizer_id: str | None = None
  code_vocab: int | None = None
  positions_per_image: int | None = None
  codes_per_position: int | None = None
  order: str | None = None
  loss_kind: str | None = None
  depth: int | None = None
  width: int | None = None
  params_total: int | None = None
  params_body: int | None = None
  params_adaln: int | None = None
  params_embed_head: int | None = None
  images_seen: int | None = None
  unique_images: int | None = None
  epochs: float | None = None
  tokens_seen: int | None = None
  steps: int | None = None
  total_steps: int | None = None
  batch_images: int | None = None
  lr_peak: float | None = None
  flops_train_total: float | None = None
  flops_train_body: float | None = None
  flops_tokenizer: float | None = None
  train_loss_nats_per_token: float | None = None
  val_images: int | None = None
  val_loss_nats_per_token: float | None = None
  val_loss_last_nats_per_token: float | None = None
  val_loss_scales: str | None = None
  val_loss_sem: float | None = None
  val_loss_uncond_nats_per_token: float | None = None
  val_err: float | None = None
  val_err_last: float | None = None
  val_psnr_db: float | None = None
  val_psnr_scales: str | None = None
  val_ssim: float | None = None
  val_perceptual: float | None = None
  perceptual: str | None = None
  discriminator: str | None = None
  code_usage: float | None = None
  code_usage_scales: str | None = None
  code_perplexity: float | None = None
  code_perplexity_scales: str | None = None
  wall_s: float | None = None
  device_kind: str | None = None
  device_count: int | None = None
  device_hours: float | None = None
  mfu: float | None = None
  goodput: float | None = None
  data_stall: float | None = None
  eval_data_stall: float | None = None
  setup_s: float | None = None
  compile_s: float | None = None
  data_s: float | None = None
  step_s: float | None = None
  evaluate_s: float | None = None
  checkpoint_s: float | None = None
  restart_s: float | None = None
  compile_cache_requests: int | None = None
  compile_cache_hits: int | None = None
  restarts: int | None = None
  git_commit: str | None = None
  code_version: str | None = None
  jax_version: str | None = None
  date: str | None = None
  config_json: str | None = None


def append(path: str | os.PathLike[str], record: RunRecord) -> None:
  """Adds one line, whole or not at all, and flushes it to the disk."""
  jsonlines.append(path, to_line(record))


def to_line(record: RunRecord) -> str:
  """One JSON line; NaN and infinity are refused, missing is null."""
  return jsonlines.line(
    dataclasses.asdict(record), f'run {record.run_id}: a record'
  )


def read(path: str | os.PathLike[str]) -> list[RunRecord]:
  """All records of a file, in file order.

  An unfinished last line (a kill while writing) is skipped.

  Raises:
    RecordError: the file is missing, or a line is not a record.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise errors.RecordError(f'{path}: no such record file')
  return [_from_values(*row) for row in jsonlines.read(path)]


def latest(records: list[RunRecord], by_step: bool = False) -> list[RunRecord]:
  """The last record of each run (and step), in order of first appearance.

  A complete record is never replaced by one that is not.
  """
  kept: dict[Any, RunRecord] = {}
  for record in records:
    key = (record.run_id, record.steps) if by_step else record.run_id
    before = kept.get(key)
    if before and before.status == 'complete' != record.status:
      continue
    kept[key] = record
  return list(kept.values())


def frame(records: list[RunRecord]) -> pd.DataFrame:
  """Records as a table with every column of the schema, typed."""
  import pandas as pd  # slow, and only tables need it

  table = pd.DataFrame(
    [dataclasses.asdict(r) for r in records], columns=_names()
  )
  for name, hint in typing.get_type_hints(RunRecord).items():
    table[name] = table[name].astype(_dtype(hint))
  return table


def load(path: str | os.PathLike[str]) -> pd.DataFrame:
  """`records.jsonl` (or `.parquet`) as a table, one row per run.

  Scores of `evaluations.jsonl`, beside it or in the trials of a sweep, are
  columns after those of the schema.

  Raises:
    RecordError: no such file, or a line that is no record.
  """
  path = pathlib.Path(path)
  if path.suffix == '.parquet':
    if not path.is_file():
      raise errors.RecordError(f'{path}: no such record file')
    import pandas as pd

    return pd.read_parquet(path)
  table = frame(latest(read(path)))
  return evaluations.join(table, evaluations.beside(path))


def load_curves(path: str | os.PathLike[str]) -> pd.DataFrame:
  """`curves.jsonl` as a table, one row per run and evaluation."""
  return frame(latest(read(path), by_step=True))


def write_parquet(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
  """Writes atomically."""
  path = pathlib.Path(path)
  partial = path.with_suffix('.partial')
  table.to_parquet(partial, index=False)
  os.replace(partial, path)


def merge(
  sources: list[pathlib.Path],
  target: str | os.PathLike[str],
  by_step: bool = False,
) -> list[RunRecord]:
  """Rewrites `target` with the latest record of every run, exactly once.

  Records already in `target` are kept, so nothing computed is lost when a
  source has disappeared.

  Returns:
    What `target` holds now, sorted by parameters, then steps, then id.
  """
  target = pathlib.Path(target)
  found = read(target) if target.is_file() else []
  for source in sources:
    if source.is_file():
      found += read(source)
  merged = sorted(
    latest(found, by_step),
    key=lambda r: (r.task != 'reconstruct', r.params_body or 0, r.name or '',
                   r.run_id, r.steps or 0),
  )  # fmt: skip
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.with_suffix('.partial')
  with open(partial, 'w') as file:
    file.writelines(to_line(r) for r in merged)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, target)
  return merged


def _from_values(where: str, values: Any) -> RunRecord:
  jsonlines.check(values, where, 'a run record', SCHEMA, _names())
  return RunRecord(**values)


def _names() -> list[str]:
  return [f.name for f in dataclasses.fields(RunRecord)]


def _dtype(hint: Any) -> str:
  options = (
    typing.get_args(hint)
    if typing.get_origin(hint) is py_types.UnionType
    else (hint,)
  )
  if int in options:
    return 'Int64'
  return 'float64' if float in options else 'object'

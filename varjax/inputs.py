"""Everything a run reads, opened: batches, evaluation batches, tokenizer."""

from __future__ import annotations

import dataclasses

from varjax import backbones, errors
from varjax import spec as specs
from varjax.data import codes as code_cache
from varjax.data import pipeline, sources
from varjax.data.manifest import Manifest
from varjax.data.watchdog import Watchdog
from varjax.tokenizers import artifact
from varjax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Opened inputs of one process.

  Attributes:
    train: the endless, resumable stream of host batches.
    evaluation: the validation split; iterating is one pass.
    unique_images: images in the training split.
    local_rows: images of a training batch that this process reads.
    eval_set: content hash of the validation split.
    watchdog: for taking batches from either.
    frozen: weights that the task reads and never changes.
    tokenizer_id: of the tokenizer, '' for stage 1.
  """

  train: pipeline.TrainBatches
  evaluation: pipeline.EvalBatches
  unique_images: int
  local_rows: int
  eval_set: str
  watchdog: Watchdog
  frozen: PyTree
  tokenizer_id: str


def open_inputs(
  run: specs.RunSpec, process_index: int, process_count: int
) -> Inputs:
  """Opens and checks what `run` reads.

  Raises:
    DataError: something is missing or corrupt.
    ConfigError: the config contradicts the tokenizer or the data.
  """
  frozen: PyTree = backbones.frozen(run)
  tokenizer_id = ''
  if run.task == 'generate':
    trained = artifact.load(run.tokenizer_dir)
    _check_tokenizer(run, trained)
    tokenizer_id = trained.id
    if run.input == 'codes':
      frozen = {'quantizer': trained.tokenizer.quantizer(trained.params)}
    else:
      frozen = {'tokenizer': trained.params}
  if run.task == 'generate' and run.input == 'codes':
    train_source = code_cache.open_codes(
      run.codes_dir, 'train', tokenizer_id=tokenizer_id
    )
    val_source = code_cache.open_codes(
      run.codes_dir, 'validation', tokenizer_id=tokenizer_id
    )
    _check_codes(run, train_source.manifest)
    what = f'codes_dir={run.codes_dir}'
  else:
    what = f'data.name={run.data.name}, data.data_dir={run.data.data_dir!r}'
    train_source = sources.open_source(run.data, 'train')
    val_source = sources.open_source(run.data, 'validation')
  if run.task == 'generate' and train_source.num_classes != (
    run.model.num_classes
  ):
    raise errors.ConfigError(
      f'model.num_classes={run.model.num_classes}: the data has '
      f'{train_source.num_classes} classes'
    )
  train = pipeline.train_batches(
    train_source,
    batch_size=run.batch_size,
    seed=run.seed,
    data_spec=run.data,
    process_index=process_index,
    process_count=process_count,
  )

  evaluation = pipeline.eval_batches(
    val_source,
    run.eval_batch_size or run.batch_size,
    data_spec=run.data,
    process_index=process_index,
    process_count=process_count,
  )
  return Inputs(
    train,
    evaluation,
    len(train_source),
    run.batch_size // process_count,
    val_source.fingerprint,
    Watchdog(run.data_timeout_s, what),
    frozen,
    tokenizer_id,
  )


def _check_tokenizer(
  run: specs.RunSpec, trained: artifact.TrainedTokenizer
) -> None:
  """The config must describe the tokenizer that the run reads."""
  for field in dataclasses.fields(specs.TokenizerSpec):
    mine = getattr(run.tokenizer, field.name)
    theirs = getattr(trained.spec, field.name)
    if mine != theirs:
      raise errors.ConfigError(
        f'tokenizer.{field.name}={mine}: the tokenizer in '
        f'{run.tokenizer_dir} was trained with {theirs}'
      )


def _check_codes(run: specs.RunSpec, manifest: Manifest) -> None:
  """The config must describe the images that the codes were made from."""
  for key, theirs in (
    ('name', manifest.dataset),
    ('resolution', manifest.resolution),
    ('resize_ratio', manifest.resize_ratio),
    ('flip', manifest.flip),
  ):
    mine = getattr(run.data, key)
    if mine != theirs:
      raise errors.ConfigError(
        f'data.{key}={mine}: the codes in {run.codes_dir} were made with '
        f'{theirs}'
      )

"""What the weights of a run are turned into: artifacts, and scored images."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from varjax import checkpoint, distributed, evaluations, features
from varjax import spec as specs
from varjax.data import pipeline, sources
from varjax.evals import sheets
from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.pipeline import VarPipeline
from varjax.scoring import images as image_sets
from varjax.scoring import samples, scores, statistics, subjects
from varjax.step import TrainState
from varjax.tasks.reconstruct import DISCRIMINATOR
from varjax.tokenizers import artifact, make_tokenizer
from varjax.train import Finish
from varjax.types import PyTree
from varjax.workdir import Workdir

_SHEET_IMAGES = 8


def _finish_tokenizer(
  run: specs.RunSpec, workdir: Workdir, state: TrainState
) -> dict[str, Any]:
  """Exports the weights and draws validation images beside their codes.

  The weights are the averages where the run keeps them.
  """
  weights = _whole(state.weights)
  # The discriminator was of use in training alone.
  params = {k: v for k, v in weights.items() if k != DISCRIMINATOR}
  identifier = distributed.on_first(
    lambda: _export_tokenizer(run, workdir, params)
  )
  return {'tokenizer_id': identifier}


def _export_tokenizer(
  run: specs.RunSpec, workdir: Workdir, params: PyTree
) -> str:
  identifier = artifact.save(workdir.path, run.tokenizer, run.data, params)
  source = sources.open_source(run.data, 'validation')
  batch = next(
    iter(pipeline.eval_batches(source, _SHEET_IMAGES, data_spec=run.data))
  )
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)
  images = batch['image'].astype(np.float32) / 127.5 - 1

  @jax.jit
  def partial_images(params: PyTree, images: jax.Array) -> jax.Array:
    codes = tokenizer.encode(params, images)
    return tokenizer.partial_images(params, codes)

  partial = jax.device_get(partial_images(params, images))
  sheets.reconstruction_sheet(
    (images + 1) / 2, (partial + 1) / 2, workdir.path / 'reconstruction.png'
  )
  return identifier


def _finish_generator(
  run: specs.RunSpec, workdir: Workdir, state: TrainState
) -> dict[str, Any]:
  """The checkpoint is all that sampling and evaluation need."""
  del run, workdir, state
  return {}


def score_images(
  run: specs.RunSpec,
  workdir: Workdir,
  run_id: str,
  state: TrainState,
  step: int,
) -> None:
  """Scores what the weights after `step` make, see `ScoreSpec`; `Score`."""
  params = _whole(state.weights)
  weights = subjects.Weights(run_id, step, workdir.path)
  extract = _extractor(run.score.features, run.score.weights)
  options = scores.Options()
  split = image_sets.open_dataset(run.data, 'validation')
  if run.task == 'reconstruct':
    trained = _unfinished_tokenizer(
      run, params, f'run {run_id} at update {step}'
    )
    subjects.evaluate_tokenizer(
      trained, weights, split, extract, options, role=evaluations.PERIODIC
    )
    return
  trained = artifact.load(run.tokenizer_dir)
  order = make_order(run.order, trained.spec)
  pipe = VarPipeline(
    trained.tokenizer,
    trained.params,
    order,
    Transformer(run.model, order.layout),
    params,
    defaults=run.sample,
    label=f'run {run_id} at update {step}',
  )
  judge = subjects.Judge(extract, statistics.keep(extract, split), options)
  subjects.evaluate_samples(
    pipe,
    weights,
    samples.Request(count=run.score.images),
    judge,
    role=evaluations.PERIODIC,
    discard=True,
  )


def open_tokenizer(workdir: Workdir) -> artifact.TrainedTokenizer:
  """The tokenizer of a stage-1 run, finished or not.

  Of a run that goes on or was stopped it is that of the newest checkpoint,
  with the averaged weights where the run keeps them.

  Raises:
    DataError: what was exported is not whole.
    CheckpointError: nothing was, and there is no checkpoint.
  """
  if (workdir.path / artifact.DESCRIPTION).is_file():
    return artifact.load(workdir.path)
  step = checkpoint.latest_step(workdir.path)
  return _unfinished_tokenizer(
    workdir.run(),
    checkpoint.load_weights(workdir.path),
    f'run {workdir.run_id()} at update {step}',
  )


def _unfinished_tokenizer(
  run: specs.RunSpec, params: PyTree, label: str
) -> artifact.TrainedTokenizer:
  """The label stands in for the id, which only an exported one has."""
  params = {k: v for k, v in params.items() if k != DISCRIMINATOR}
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)
  return artifact.TrainedTokenizer(
    tokenizer, params, label, run.tokenizer, run.data
  )


@functools.cache
def _extractor(name: str, path: str) -> statistics.Extractor:
  """Compiled once for all fractions of a run."""
  return statistics.Extractor(features.load(name, path))


def _whole(tree: PyTree) -> PyTree:
  """The full arrays on the host, wherever their shards are."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(tree, tiled=True)


FINISH: dict[str, Finish] = {
  'reconstruct': _finish_tokenizer,
  'generate': _finish_generator,
}

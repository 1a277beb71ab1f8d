"""A trained transformer with its tokenizer, loaded from a workdir."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from varjax import checkpoint, errors
from varjax import spec as specs
from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.orders.base import Order
from varjax.tokenizers import artifact
from varjax.types import PyTree
from varjax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class TrainedGenerator:
  """Everything that sampling and evaluation need.

  Attributes:
    run: what was trained.
    run_id: its id.
    step: updates behind the weights.
    model, params: the transformer and its weights (host arrays).
    order: how codes are produced.
    trained: the tokenizer; quantizer: the weights that the order reads.
  """

  run: specs.RunSpec
  run_id: str
  step: int
  model: Transformer
  params: PyTree
  order: Order
  trained: artifact.TrainedTokenizer
  quantizer: PyTree


def load_generator(
  path: str | os.PathLike[str], tokenizer_dir: str = ''
) -> TrainedGenerator:
  """Loads the newest checkpoint of a `generate` run.

  Args:
    path: workdir of the run.
    tokenizer_dir: where the tokenizer is now; '' uses the run's own path.

  Raises:
    CheckpointError: not a workdir, no checkpoint, or a run of stage 1.
    DataError: the tokenizer is missing, or not the one it was trained with.
  """
  workdir = Workdir(pathlib.Path(path))
  run = workdir.run()
  if run.task != 'generate':
    raise errors.CheckpointError(
      f'{path}: holds a {run.task} run; this needs a generate run'
    )
  trained = artifact.load(tokenizer_dir or run.tokenizer_dir)
  order = make_order(run.order, trained.spec)
  step, params = checkpoint.load_params(workdir.checkpoints)
  return TrainedGenerator(
    run,
    workdir.run_id(),
    step,
    Transformer(run.model, order.layout),
    params,
    order,
    trained,
    trained.tokenizer.quantizer(trained.params),
  )

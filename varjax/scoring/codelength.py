"""Bits per dimension of a whole model: tokenizer, prior and residual.

An upper bound, exact in its accounting: codes under the prior, then 8-bit
pixels about their reconstruction (`evals.bits`). The residual's scales are
fitted on training images, so nothing of the judged images is free.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math

import numpy as np

from varjax import errors
from varjax import spec as specs
from varjax.data import pipeline, preprocess, sources
from varjax.evals import bits
from varjax.evaluate import Evaluation
from varjax.orders import make_order
from varjax.scoring import reconstructions
from varjax.tokenizers.artifact import TrainedTokenizer

FIT_IMAGES = 512
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class CodeLength:
  """Bits per dimension (pixel and channel) over a validation split.

  Attributes:
    codes: of the codes under the prior; residual: of the pixels given them.
    error: standard error of the sum over images; an upper bound, the sum of
      those of its parts.
    label: what a class label costs where the prior was given one and it is
      to be sent as well; not in `total`.
    prior: 'uniform', or the kind of loss of the prior.
    family: of the residual; images: how many were judged.
  """

  codes: float
  residual: float
  error: float
  label: float
  prior: str
  family: str
  images: int

  @property
  def total(self) -> float:
    """The bound."""
    return self.codes + self.residual


def of_tokenizer(trained: TrainedTokenizer) -> CodeLength:
  """The bound with every code equally likely: no prior was trained."""
  spec = trained.tokenizer.code_spec
  nats = spec.positions * spec.codes_per_position * math.log(spec.vocab)
  return _measure(trained, nats, 0.0, 'uniform', 0)


def of_run(
  run: specs.RunSpec, trained: TrainedTokenizer, evaluation: Evaluation
) -> CodeLength:
  """The bound of a transformer on the images that it was evaluated on.

  Args:
    run: a 'generate' run.
    trained: its tokenizer.
    evaluation: of the run on its validation split.

  Raises:
    ConfigError: the loss of its order says nothing of the likelihood.
  """
  order = make_order(run.order, run.tokenizer)
  if order.loss_kind == 'surrogate':
    raise errors.ConfigError(
      f'order {run.order.name}: its loss is a surrogate, which bounds no '
      'likelihood; bits per dimension need an exact loss or a bound'
    )
  positions = order.layout.predicted
  nats = float(evaluation.mean['loss']) * positions
  spread = float(evaluation.sem['loss']) * positions
  return _measure(
    trained, nats, spread, order.loss_kind, run.model.num_classes,
    evaluation.images,
  )  # fmt: skip


def _measure(
  trained: TrainedTokenizer,
  nats: float,
  spread: float,
  prior: str,
  classes: int,
  judged: int | None = None,
) -> CodeLength:
  residual = bits.fit(*_spread(trained, FIT_IMAGES))
  lengths, size = [], 0
  for images, given in _pairs(trained, 'validation'):
    lengths.append(residual.bits(images, given))
    size = math.prod(images.shape[1:])
  found = np.concatenate(lengths)
  if judged is not None and judged != len(found):
    raise errors.DataError(
      f'the prior was evaluated on {judged} images, the tokenizer sees '
      f'{len(found)}; both need the same split'
    )
  error = np.std(found, ddof=1) / math.sqrt(len(found))
  to_bits = 1 / (math.log(2) * size)
  return CodeLength(
    codes=nats * to_bits,
    residual=float(found.mean()) / size,
    error=float(error) / size + spread * to_bits,
    label=math.log2(classes) / size if classes else 0.0,
    prior=prior,
    family=residual.family,
    images=len(found),
  )


def _spread(
  trained: TrainedTokenizer, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of training images, evenly over the split, which may be sorted."""
  source = sources.open_source(trained.data, 'train')
  count = min(count, len(source))
  chosen = np.linspace(0, len(source) - 1, count).astype(int)
  images = np.stack(
    [
      preprocess.center_crop(source[int(index)]['image'], trained.data)
      for index in chosen
    ]
  )
  reconstruct = reconstructions.of_tokenizer(trained)
  given = []
  for start in range(0, count, _BATCH):
    part = images[start : start + _BATCH]
    padded = np.pad(part, ((0, _BATCH - len(part)), (0, 0), (0, 0), (0, 0)))
    given.append(reconstruct(padded)[: len(part)])
  return images, np.concatenate(given)


def _pairs(
  trained: TrainedTokenizer, split: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Images uint8 and their reconstructions, batch by batch."""
  reconstruct = reconstructions.of_tokenizer(trained)
  source = sources.open_source(trained.data, split)
  for batch in pipeline.eval_batches(source, _BATCH, data_spec=trained.data):
    mask = batch['mask'].astype(bool)
    yield batch['image'][mask], reconstruct(batch['image'])[mask]

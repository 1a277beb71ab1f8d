"""The images that a transformer is scored by, made once into an .npz.

The same file that `varjax sample-50k` writes and that the evaluator of
guided-diffusion reads.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

import numpy as np

from varjax import errors
from varjax.pipeline import VarPipeline
from varjax.sampling import bulk
from varjax.scoring.rejection import Rejecter, Rejection
from varjax.scoring.statistics import Extractor
from varjax.spec import PrecisionSpec, SampleSpec


@dataclasses.dataclass(frozen=True)
class Request:
  """Which images; None takes the default of the run.

  Attributes:
    count: images; image i has class i modulo `classes`.
    classes: the first so many; 0 is all of the run.
    cfg, top_k, top_p, smooth, guided: see `spec.SampleSpec`.
    seed: of all draws.
    group: images that a device computes at once.
    batch_size: in flight over the devices; 0 is two groups a device.
    rejection: None keeps every image.
  """

  count: int
  classes: int = 0
  cfg: float | None = None
  top_k: int | None = None
  top_p: float | None = None
  smooth: bool | None = None
  guided: tuple[int, ...] | None = None
  seed: int = 0
  group: int = 16
  batch_size: int = 0
  rejection: Rejection | None = None


def settings(
  pipe: VarPipeline, request: Request, classifier: Extractor | None = None
) -> dict[str, Any]:
  """Everything that the images depend on, as JSON."""
  chosen = _sampling(pipe, request)
  found: dict[str, Any] = {
    'weights': pipe.label,
    'classes': request.classes or pipe.num_classes,
    'seed': request.seed,
    'group': request.group,
    'cfg': chosen.cfg,
    'top_k': chosen.top_k,
    'top_p': chosen.top_p,
    'smooth': chosen.smooth,
  }
  if chosen.guided:  # Absent before there was a choice.
    found['guided'] = list(chosen.guided)
  if pipe.precision != PrecisionSpec():
    found['precision'] = dataclasses.asdict(pipe.precision)
  if request.rejection is not None:
    found['rejection'] = dataclasses.asdict(request.rejection)
    if classifier is not None:
      found['classifier'] = classifier.network.identity
  return found


def _sampling(pipe: VarPipeline, request: Request) -> SampleSpec:
  return pipe.settings(
    cfg=request.cfg,
    top_k=request.top_k,
    top_p=request.top_p,
    smooth=request.smooth,
    guided=request.guided,
  )


def write(
  pipe: VarPipeline,
  out: pathlib.Path,
  request: Request,
  *,
  classifier: Extractor | None = None,
  report: Callable[[int, int], None] = lambda *_: None,
) -> bool:
  """Samples into `out`, resumably; see `bulk.write`.

  Args:
    pipe: the model.
    out: .npz to write.
    request: which images.
    classifier: for `request.rejection`.
    report: told (images done, images) by each process about its share.

  Returns:
    False if `out` was complete already.

  Raises:
    ConfigError: more classes than the run has, another set in `out`, or a
      rejection that cannot be.
  """
  classes = request.classes or pipe.num_classes
  if classes > pipe.num_classes:
    raise errors.ConfigError(
      f'--classes={classes}: the run has {pipe.num_classes} classes'
    )
  chosen = _sampling(pipe, request)
  sampler = pipe.group_sampler(chosen, group=request.group, seed=request.seed)
  in_flight = -(-request.batch_size // sampler.rows) or 2

  def draw(index: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return sampler(index, labels, in_flight)

  chosen_draw = draw
  if request.rejection is not None:
    if classifier is None:
      raise ValueError('rejection needs a classifier')
    chosen_draw = Rejecter(draw, request.rejection, classifier, classes)
  # Whole groups in every shard but the last: an image keeps its place.
  shard_images = -(-bulk.SHARD_IMAGES // request.group) * request.group
  return bulk.write(
    out,
    lambda index: chosen_draw(index, index % classes),
    request.count,
    settings(pipe, request, classifier),
    shard_images=shard_images,
    report=report,
  )

"""The part of `varjax eval` that scores images against a reference."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Any

from varjax import errors
from varjax.spec import DataSpec
from varjax.tools import arguments

if TYPE_CHECKING:
  from varjax.evaluations import EvaluationRecord
  from varjax.scoring.samples import Request
  from varjax.scoring.statistics import Extractor
  from varjax.scoring.subjects import Judge, Weights
  from varjax.workdir import Workdir

# The number of images that published scores are of.
_PROTOCOL_IMAGES = 50_000
_SECONDS = 10


def run(args: argparse.Namespace) -> int:
  """Scores what `args` names; returns the exit code.

  Raises:
    ConfigError: arguments that contradict each other, or too few of them.
  """
  subjects = [
    bool(args.workdir),
    bool(args.samples),
    bool(args.vae or args.var),
  ]
  if sum(subjects) != 1 or bool(args.vae) != bool(args.var):
    raise errors.ConfigError(
      'give one thing to evaluate: --workdir, --samples, or --vae with --var'
    )
  if not args.reference:
    raise errors.ConfigError(
      '--reference: needed to score images: a folder, an .npz, or NAME:SPLIT '
      'of a dataset'
    )
  if args.sweep and args.samples:
    raise errors.ConfigError('--sweep: needs a run or weights to sample from')
  if args.plot and not args.sweep:
    raise errors.ConfigError('--plot: draws the curves of a --sweep')
  if args.eval_batch < 1 or args.splits < 1 or args.reject < 1:
    raise errors.ConfigError(
      '--eval_batch, --splits and --reject must be at least 1'
    )

  from varjax import compilation, features
  from varjax.scoring import statistics

  compilation.enable_cache()
  network = features.load(args.features, args.feature_weights)
  extract = statistics.Extractor(network, args.eval_batch)
  if args.samples:
    return _score_files(args, extract)
  if args.workdir:
    return _score_run(args, extract)
  return _score_official(args, extract)


def _score_files(args: argparse.Namespace, extract: Extractor) -> int:
  from varjax.scoring import reference, subjects, table

  found = reference.open_images(args.samples)
  judge = _judge(
    args, extract, _data(args, found.height), found.label, found.size
  )
  result = subjects.score_images(found, judge)
  print(table.of_scores(result))
  _write(args, result.as_json())
  return 0


def _score_run(args: argparse.Namespace, extract: Extractor) -> int:
  from varjax import checkpoint
  from varjax.scoring.subjects import Weights
  from varjax.workdir import Workdir, find_run

  workdir = Workdir(pathlib.Path(find_run(args.workdir, args.run)))
  spec = workdir.run()
  weights = Weights(
    run_id=workdir.run_id(),
    steps=checkpoint.latest_step(workdir.path),
    home=pathlib.Path(args.samples_dir or workdir.path),
  )
  data = spec.data
  if args.data_dir:
    data = dataclasses.replace(data, data_dir=args.data_dir)
  if args.reference in ('train', 'validation'):
    args.reference = f'{data.name}:{args.reference}'
  if spec.task == 'reconstruct':
    return _score_tokenizer(args, extract, workdir, weights, data)

  from varjax.pipeline import VarPipeline

  pipe = VarPipeline.from_workdir(workdir.path, tokenizer_dir=args.tokenizer)
  side = data.resolution
  judge = _judge(args, extract, data, pipe.label, (side, side))
  return _score_pipeline(args, pipe, weights, judge)


def _score_tokenizer(
  args: argparse.Namespace,
  extract: Extractor,
  workdir: Workdir,
  weights: Weights,
  data: DataSpec,
) -> int:
  from varjax import artifacts
  from varjax.features import lpips
  from varjax.scoring import reference, subjects, table

  if args.sweep or args.reject > 1:
    raise errors.ConfigError(
      f'{workdir.path}: is a tokenizer; --sweep and --reject are about samples'
    )
  found = reference.open_images(args.reference, data=data)
  told = _Progress()
  record = subjects.evaluate_tokenizer(
    artifacts.open_tokenizer(workdir),
    weights,
    found,
    extract,
    _options(args),
    metric=lpips.load(args.lpips) if args.lpips else None,
    report=lambda done, total: told(done, total, 'images reconstructed'),
  )
  print(table.of_record(record))
  _write(args, dataclasses.asdict(record))
  return 0


def _score_official(args: argparse.Namespace, extract: Extractor) -> int:
  from varjax.interop.workdirs import SAMPLE
  from varjax.pipeline import VarPipeline
  from varjax.scoring.subjects import Weights

  if not args.samples_dir:
    raise errors.ConfigError(
      '--samples_dir: needed with official weights, to keep the samples in'
    )
  for key, value in dataclasses.asdict(SAMPLE).items():
    if getattr(args, key) is None:
      setattr(args, key, value)
  pipe = VarPipeline.from_official(args.vae, args.var)
  digest = hashlib.sha256()
  for path in (args.vae, args.var):
    with open(path, 'rb') as file:
      digest.update(hashlib.file_digest(file, 'sha256').digest())
  weights = Weights(
    digest.hexdigest()[:12], None, pathlib.Path(args.samples_dir)
  )
  pipe.label = f'official weights {weights.run_id}'
  side = pipe.grids[-1][0] * pipe.tokenizer.spec.downsample
  judge = _judge(args, extract, _data(args, side), pipe.label, (side, side))
  return _score_pipeline(args, pipe, weights, judge)


def _score_pipeline(
  args: argparse.Namespace, pipe, weights: Weights, judge: Judge
) -> int:
  from varjax import evaluations
  from varjax.scoring import curves, subjects, sweep, table

  axes = sweep.parse(args.sweep)
  request = _request(args, judge)
  subjects.check_count(request, pipe.num_classes)
  if not axes:
    record = subjects.evaluate_samples(
      pipe, weights, request, judge, discard=args.discard
    )
    print(table.of_record(record))
    _write(args, dataclasses.asdict(record))
    return 0
  points: list[EvaluationRecord] = []
  requests = sweep.requests(axes, request)
  for number, point in enumerate(requests, start=1):
    print(f'point {number} of {len(requests)}', file=sys.stderr)
    points.append(
      subjects.evaluate_samples(
        pipe,
        weights,
        point,
        judge,
        role=evaluations.SWEEP,
        discard=args.discard,
      )
    )
  print(table.of_sweep(points, list(axes)))
  for text in dict.fromkeys(w for p in points for w in p.warnings):
    print(f'note: {text}')
  _write(args, [dataclasses.asdict(point) for point in points])
  if args.plot:
    panels = curves.plot(points, axes, judge.extract.network.name, args.plot)
    print(f'{" and ".join(panels) or "nothing"} drawn in {args.plot}')
  return 0


def _request(args: argparse.Namespace, judge: Judge) -> Request:
  from varjax.scoring import rejection, samples

  theirs = judge.reference.images or _PROTOCOL_IMAGES
  chosen = None
  if args.reject > 1:
    chosen = rejection.Rejection(args.reject, args.reject_by)
  return samples.Request(
    count=args.images or min(theirs, _PROTOCOL_IMAGES),
    classes=args.classes,
    **arguments.sampling_of(args),
    seed=args.seed,
    group=args.group,
    rejection=chosen,
  )


def _judge(
  args: argparse.Namespace,
  extract: Extractor,
  data: DataSpec,
  label: str,
  size: tuple[int, int],
) -> Judge:
  """The reference, opened for images of `size` that are called `label`."""
  from varjax.scoring import reference, subjects

  told = _Progress()
  found = reference.open_reference(
    args.reference,
    extract,
    data=data,
    like=(label, size),
    report=lambda done, total: told(done, total, 'images of the reference'),
  )
  return subjects.Judge(extract, found, _options(args), told)


def _options(args: argparse.Namespace):
  from varjax.scoring import scores

  return scores.Options(splits=args.splits, limit=args.limit, force=args.force)


def _data(args: argparse.Namespace, side: int) -> DataSpec:
  """How a dataset is cropped to be compared with images of `side` pixels."""
  return DataSpec(
    name='', data_dir=args.data_dir, resolution=args.resolution or side
  )


def _write(args: argparse.Namespace, content: Any) -> None:
  if args.out:
    from varjax.workdir import write_json

    pathlib.Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_json(pathlib.Path(args.out), json.loads(json.dumps(content)))


class _Progress:
  """A line on stderr every few seconds, and at the end of long stages."""

  def __init__(self):
    self._last = time.monotonic()

  def __call__(self, done: int, total: int, what: str) -> None:
    now = time.monotonic()
    if now - self._last >= _SECONDS:
      self._last = now
      print(f'{done} of {total} {what}', file=sys.stderr)

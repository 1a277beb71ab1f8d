"""What is scored, beyond plain images: transformers and tokenizers.

An evaluation of a run is a line of its `evaluations.jsonl`; one that is
there already, of the same weights, settings, network and reference, is not
computed again. That makes sweeps resumable, point by point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import datetime
import json
import pathlib
from typing import Any

import jax

from varjax import errors, evaluations, identity
from varjax.evaluations import EvaluationRecord
from varjax.features.lpips import Lpips
from varjax.pipeline import VarPipeline
from varjax.scoring import images, reconstructions, samples, scores
from varjax.scoring.codelength import CodeLength
from varjax.scoring.samples import Request
from varjax.scoring.statistics import Extractor, Report, Statistics
from varjax.tokenizers.artifact import TrainedTokenizer


@dataclasses.dataclass(frozen=True)
class Weights:
  """Whose scores these are.

  Attributes:
    run_id, steps: of the run, or a hash of the files of official weights.
    home: folder of `evaluations.jsonl` and of the samples.
  """

  run_id: str
  steps: int | None
  home: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Judge:
  """Everything that turns images into scores.

  Attributes:
    extract: the network; reference: what it is compared with.
    options: of the scores.
    report: told (done, total, what) while it goes on.
  """

  extract: Extractor
  reference: Statistics
  options: scores.Options
  report: Callable[[int, int, str], None] = lambda *_: None

  def told(self, what: str) -> Report:
    """A report of one stage."""
    return lambda done, total: self.report(done, total, what)


def score_images(found: images.ImageSet, judge: Judge) -> scores.Scores:
  """Scores of images that are there."""
  seen = judge.extract(found, judge.told('images seen'))
  return scores.score(
    seen, judge.reference, judge.extract.network, judge.options
  )


def evaluate_samples(
  pipe: VarPipeline,
  weights: Weights,
  request: Request,
  judge: Judge,
  *,
  role: str = evaluations.PROTOCOL,
  discard: bool = False,
) -> EvaluationRecord:
  """Samples, scores and records; what is done already is read.

  Args:
    pipe: the transformer.
    weights: whose it is, and where the samples go.
    request: which images.
    judge: what scores them.
    role: of the evaluation, see `evaluations.ROLES`.
    discard: remove the samples once they are scored.
  """
  settings = samples.settings(pipe, request, judge.extract)
  settings |= _scoring(judge.options, request.count)
  before = _known(weights, 'samples', role, settings, judge)
  if before is not None:
    return before
  out = weights.home / 'samples' / f'{_name(settings)}.npz'
  samples.write(
    pipe,
    out,
    request,
    classifier=judge.extract,
    report=judge.told('images sampled'),
  )
  found = score_images(images.open_npz(out), judge)
  record = record_of(found, weights, 'samples', role, settings)
  if jax.process_index() == 0:
    evaluations.append(weights.home / evaluations.FILE, record)
    if discard:
      out.unlink()
      out.with_name(f'{out.name}.json').unlink()
  return record


def evaluate_tokenizer(
  trained: TrainedTokenizer,
  weights: Weights,
  found: images.ImageSet,
  extract: Extractor,
  options: scores.Options,
  *,
  role: str = evaluations.PROTOCOL,
  metric: Lpips | None = None,
  report: Report = lambda *_: None,
) -> EvaluationRecord:
  """Reconstructs, scores and records.

  Args:
    trained: the tokenizer.
    weights: whose it is.
    found: images of its resolution.
    extract, options: what scores them.
    role: see `evaluations.ROLES`.
    metric: also judges pairs by LPIPS.
    report: told (images done, images).

  Raises:
    DataError: images of another resolution.
  """
  side = trained.data.resolution
  scores.check_sizes(found.label, found.size, trained.id, (side, side))
  result = reconstructions.evaluate(
    reconstructions.rounded(reconstructions.of_tokenizer(trained)),
    found,
    extract,
    options=options,
    metric=metric,
    count_codes=reconstructions.codes_of(trained),
    label=f'reconstructions of {trained.id}',
    report=report,
  )
  settings = {'tokenizer_id': trained.id} | _scoring(options, found.count)
  if metric is not None:
    settings['lpips'] = metric.identity
  record = record_of(result, weights, 'reconstructions', role, settings)
  if jax.process_index() == 0:
    evaluations.append(weights.home / evaluations.FILE, record)
  return record


def record_of(
  found: scores.Scores,
  weights: Weights,
  kind: str,
  role: str,
  settings: Mapping[str, Any],
) -> EvaluationRecord:
  """Scores as a line of `evaluations.jsonl`."""
  return EvaluationRecord(
    run_id=weights.run_id,
    steps=weights.steps,
    date=_now(),
    kind=kind,
    role=role,
    values=found.values,
    errors=found.errors,
    images=found.images,
    reference_images=found.reference_images,
    reference=found.reference,
    reference_fingerprint=found.reference_fingerprint,
    network=found.network,
    network_identity=found.identity,
    settings=json.loads(json.dumps(dict(settings))),
    warnings=list(found.warnings),
    code_version=identity.code_version(),
  )


def record_code_length(found: CodeLength, weights: Weights) -> None:
  """Adds the bits per dimension of a run to its evaluations."""
  if jax.process_index() != 0:
    return
  record = EvaluationRecord(
    run_id=weights.run_id,
    steps=weights.steps,
    date=_now(),
    kind='codelength',
    values={
      'bits_per_dim_bound': found.total,
      'bits_per_dim_codes': found.codes,
      'bits_per_dim_residual': found.residual,
    },
    errors={'bits_per_dim_bound': found.error},
    images=found.images,
    settings={'prior': found.prior, 'residual': found.family},
    code_version=identity.code_version(),
  )
  evaluations.append(weights.home / evaluations.FILE, record)


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def _scoring(options: scores.Options, count: int) -> dict[str, Any]:
  return {'images': count, 'scoring': dataclasses.asdict(options)}


def _known(
  weights: Weights,
  kind: str,
  role: str,
  settings: Mapping[str, Any],
  judge: Judge,
) -> EvaluationRecord | None:
  """The last evaluation of the same thing by the same code."""
  wanted = json.loads(json.dumps(dict(settings)))
  matching = [
    record
    for record in evaluations.read(weights.home / evaluations.FILE)
    if record.run_id == weights.run_id
    and record.steps == weights.steps
    and (record.kind, record.role) == (kind, role)
    and record.settings == wanted
    and record.network_identity == judge.extract.network.identity
    and record.reference_fingerprint == judge.reference.fingerprint
    and record.code_version == identity.code_version()
  ]
  return matching[-1] if matching else None


def _name(settings: Mapping[str, Any]) -> str:
  """A file name that says what is in it; the manifest says all."""
  digest = identity.digest(
    {k: v for k, v in settings.items() if k != 'scoring'}
  )
  return (
    f'cfg{settings["cfg"]:g}-k{settings["top_k"]}-p{settings["top_p"]:g}'
    f'-n{settings["images"]}-{digest[:8]}'
  )


def check_count(request: Request, classes: int) -> None:
  """Refuses a set of samples that leaves classes out.

  Raises:
    ConfigError: fewer images than classes.
  """
  classes = request.classes or classes
  if request.count < classes:
    raise errors.ConfigError(
      f'--images={request.count}: fewer than the {classes} classes that are '
      'sampled in turn; give more, or --classes as well'
    )

"""Scores that were added to a run after its record was written.

A RunRecord is written once, by training. What is measured later stands in
`evaluations.jsonl` beside `records.jsonl`, one line per evaluation, and is
joined to the table of records when that is loaded. Files only grow. No JAX
in here.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

from varjax import errors, jsonlines

if TYPE_CHECKING:
  import pandas as pd

SCHEMA = 1
FILE = 'evaluations.jsonl'
KINDS = ('samples', 'reconstructions', 'codelength')
# Of a run's evaluations, those that stand for the run in tables.
PROTOCOL, SWEEP, PERIODIC = 'protocol', 'sweep', 'periodic'
ROLES = (PROTOCOL, SWEEP, PERIODIC)


@dataclasses.dataclass(frozen=True)
class EvaluationRecord:
  """One evaluation of one run.

  Attributes:
    schema: version of this table.
    run_id, steps: of the weights; date: of the evaluation, UTC.
    kind: of `KINDS`; role: 'protocol' with the settings of the run's
      protocol, 'sweep' a point of a curve, 'periodic' during training.
    values: score by name; the name says the network ('fd_efflite0').
    errors: standard errors of those that have one.
    images, reference_images: how many were compared.
    reference, reference_fingerprint: with what; network_identity: through
      which network, weights and preprocessing.
    settings: guidance, truncation, seed and whatever else made the images.
    warnings: sentences that belong to the numbers.
  """

  schema: int = SCHEMA
  run_id: str = ''
  steps: int | None = None
  date: str | None = None
  kind: str = 'samples'
  role: str = PROTOCOL
  values: dict[str, float] = dataclasses.field(default_factory=dict)
  errors: dict[str, float] = dataclasses.field(default_factory=dict)
  images: int | None = None
  reference_images: int | None = None
  reference: str | None = None
  reference_fingerprint: str | None = None
  network: str | None = None
  network_identity: str | None = None
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)
  warnings: list[str] = dataclasses.field(default_factory=list)
  code_version: str | None = None


def append(path: str | os.PathLike[str], record: EvaluationRecord) -> None:
  """Adds one line, whole, and flushes it to the disk.

  Raises:
    RecordError: NaN or infinity, or an unknown kind or role.
  """
  if record.kind not in KINDS or record.role not in ROLES:
    raise errors.RecordError(
      f'run {record.run_id}: kind {record.kind!r} and role {record.role!r} '
      f'must be of {", ".join(KINDS)} and of {", ".join(ROLES)}'
    )
  what = f'run {record.run_id}: an evaluation'
  jsonlines.append(path, jsonlines.line(dataclasses.asdict(record), what))


def read(path: str | os.PathLike[str]) -> list[EvaluationRecord]:
  """All evaluations of a file, in order; none where there is no file.

  Raises:
    RecordError: a line that is not an evaluation, or of a later schema.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    return []
  return [_from_values(*row) for row in jsonlines.read(path)]


def beside(records: pathlib.Path) -> list[EvaluationRecord]:
  """Evaluations that belong to a file of records.

  Those beside it, and those of the trials of a sweep below it.
  """
  folder = records.parent
  files = [folder / FILE, *sorted(folder.glob(f'trials/*/{FILE}'))]
  return [record for file in files for record in read(file)]


def join(table: pd.DataFrame, found: list[EvaluationRecord]) -> pd.DataFrame:
  """A table of records with a column for each score.

  The last 'protocol' evaluation of a run that has a score counts. Runs
  without it have null, and a table without evaluations stays as it is.

  Raises:
    RecordError: a score has the name of a column.
  """
  by_run: dict[str, dict[str, float]] = {}
  for record in found:
    if record.role == PROTOCOL:
      by_run.setdefault(record.run_id, {}).update(record.values)
  names = sorted({name for values in by_run.values() for name in values})
  for name in names:
    if name in table.columns:
      raise errors.RecordError(
        f'the score {name!r} has the name of a column of the records'
      )
    column = [by_run.get(run, {}).get(name) for run in table['run_id']]
    if any(value is not None for value in column):
      table[name] = [float('nan') if v is None else v for v in column]
  return table


def _from_values(where: str, values: Any) -> EvaluationRecord:
  names = {field.name for field in dataclasses.fields(EvaluationRecord)}
  jsonlines.check(values, where, 'an evaluation of a run', SCHEMA, names)
  return EvaluationRecord(**values)

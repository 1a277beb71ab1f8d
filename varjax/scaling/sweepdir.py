"""A sweep directory as its reader finds it: records, curves, fit, images.

One of `records.jsonl` and `fit.json` must be there; all else is optional.
What is missing is None or empty, and what is unreadable is an error that
names the file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import pandas as pd

from varjax import errors, records


@dataclasses.dataclass(frozen=True)
class Picture:
  """One sheet of images.

  Attributes:
    path: PNG file inside the sweep directory.
    caption: from its file name.
    kind: 'samples', 'reconstruction' or 'other'.
  """

  path: pathlib.Path
  caption: str
  kind: str


@dataclasses.dataclass(frozen=True)
class SweepDir:
  """What one sweep left behind.

  Attributes:
    path: the directory.
    runs: one row per run, columns of `records.RunRecord`; empty where a
      table from elsewhere was fitted.
    curves: one row per run and evaluation; may be empty.
    fit: contents of `fit.json`, None without one.
    plan: contents of `plan.json`, None without one.
    commands: what was executed, each with `command` and `seconds`.
    pictures: sample and reconstruction sheets.
  """

  path: pathlib.Path
  runs: pd.DataFrame
  curves: pd.DataFrame
  fit: dict[str, Any] | None
  plan: dict[str, Any] | None
  commands: list[dict[str, Any]]
  pictures: list[Picture]

  @property
  def models(self) -> pd.DataFrame:
    """Rows of transformers, smallest first."""
    models = self.runs[self.runs['task'] != 'reconstruct']
    return models.sort_values(
      ['params_body', 'name'], na_position='last', kind='stable'
    )

  @property
  def tokenizers(self) -> pd.DataFrame:
    """Rows of tokenizers."""
    return self.runs[self.runs['task'] == 'reconstruct']


def read(path: str | os.PathLike[str]) -> SweepDir:
  """Reads a sweep directory.

  Raises:
    RecordError: the directory is missing, or has neither records nor a
      fit, or a file cannot be read or holds no run.
  """
  folder = pathlib.Path(path)
  if not folder.is_dir():
    raise errors.RecordError(f'{folder}: no such sweep directory')
  records_path, fit_path = folder / 'records.jsonl', folder / 'fit.json'
  if records_path.is_file() or not fit_path.is_file():
    runs = records.load(records_path)
    if runs.empty:
      raise errors.RecordError(
        f'{records_path}: holds no run; the sweep has not finished its first '
        'trial'
      )
  else:
    # A fit of a table from elsewhere has no records of ours.
    runs = records.frame([])
  curves_path = folder / 'curves.jsonl'
  curves = (
    records.load_curves(curves_path)
    if curves_path.is_file()
    else records.frame([])
  )
  fit = read_json(fit_path, dict)
  plan = read_json(folder / 'plan.json', dict)
  if plan is not None and plan.get('kind') != 'varjax.plan':
    raise errors.RecordError(f'{folder / "plan.json"}: not a plan')
  commands = read_json(folder / 'commands.json', list) or []
  return SweepDir(
    folder,
    runs,
    curves,
    fit,
    plan,
    [c if isinstance(c, dict) else {'command': str(c)} for c in commands],
    _pictures(folder),
  )


def read_json(path: pathlib.Path, kind: type) -> Any:
  """A JSON file whose top level is `kind`, or None when it is absent.

  Raises:
    RecordError: it is not JSON, or its top level is something else.
  """
  if not path.is_file():
    return None
  try:
    value = json.loads(path.read_text())
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise errors.RecordError(f'{path}: not JSON ({error})') from error
  if not isinstance(value, kind):
    raise errors.RecordError(
      f'{path}: the top level must be a {kind.__name__}, '
      f'not a {type(value).__name__}'
    )
  return value


def _pictures(folder: pathlib.Path) -> list[Picture]:
  found = sorted(folder.glob('*.png'))
  found += sorted((folder / 'tokenizer').glob('*.png'))
  pictures = []
  for path in found:
    words = path.stem.replace('_', ' ').replace('-', ' ').strip()
    kind = 'other'
    for prefix, name in (('samples', 'samples'), ('recon', 'reconstruction')):
      if path.stem.startswith(prefix):
        kind = name
    pictures.append(Picture(path, words[:1].upper() + words[1:], kind))
  order = ('samples', 'reconstruction', 'other')
  return sorted(pictures, key=lambda p: (order.index(p.kind), str(p.path)))

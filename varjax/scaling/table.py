"""From files to one table of runs with columns n, d, c, y and conventions.

Records and foreign CSVs meet here. What N, D and C count is chosen now, at
analysis, from the counts that a record stores, because the choice moves the
exponents (Porian 2024 and Pearse & Song 2024 explain the Kaplan-Chinchilla
gap with it).
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
import pathlib

import numpy as np
import pandas as pd

from varjax import errors, records

N_CONVENTIONS = {
  'body': 'parameters of the transformer blocks (VAR: 73728 d^3)',
  'total': 'all parameters, embeddings and head included',
  'body_no_adaln': 'block parameters without the AdaLN projections',
  'body_head': 'blocks, embeddings and head, without the AdaLN projections',
  'effective': 'flops_train_body / (6 tokens_seen): attention included',
}
D_CONVENTIONS = {
  'seen': 'tokens seen, repeats counted',
  'unique': 'tokens of unique images',
}
C_CONVENTIONS = {
  'total': 'counted: flops_train_total of the images seen',
  'body': 'counted: flops_train_body of the images seen',
  'planned': 'planned: flops_train_total of all total_steps updates',
  'knd': 'k N D',
}
METRICS = {
  'L_mean': ('val_loss_nats_per_token', 'nats per token', 'loss'),
  'L_last': ('val_loss_last_nats_per_token', 'nats per token', 'loss'),
  'Err_mean': ('val_err', 'share of wrong tokens', 'rate'),
  'Err_last': ('val_err_last', 'share of wrong tokens', 'rate'),
}
_RECORD = {'run_id', 'params_body', 'val_loss_nats_per_token', 'loss_kind'}


@dataclasses.dataclass(frozen=True)
class Conventions:
  """What N, D and C count.

  Attributes:
    n, d, c: keys of N_CONVENTIONS, D_CONVENTIONS, C_CONVENTIONS.
    k: C = k N D where c is 'knd', and in the optimum of a surface.
  """

  n: str = 'body'
  d: str = 'seen'
  c: str = 'total'
  k: float = 6.0

  def __post_init__(self):
    for what, value, allowed in (
      ('n_convention', self.n, N_CONVENTIONS),
      ('d_convention', self.d, D_CONVENTIONS),
      ('flop_convention', self.c, C_CONVENTIONS),
    ):
      if value not in allowed:
        raise errors.ConfigError(
          f'{what} {value!r} is unknown; use one of {", ".join(allowed)}'
        )
    if not (np.isfinite(self.k) and self.k > 0):
      raise errors.ConfigError(f'k of C = k N D must be positive: {self.k}')

  @property
  def flop_text(self) -> str:
    """What C is, in words."""
    text = C_CONVENTIONS[self.c]
    return text if self.c != 'knd' else f'C = {self.k:g} N D'


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
  """A table of runs: records (.jsonl, .parquet) or any CSV or Parquet.

  Raises:
    RecordError: the file is missing, empty or of an unknown kind.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / 'records.jsonl'
  if not path.is_file():
    raise errors.RecordError(f'{path}: no such file')
  if path.suffix == '.jsonl':
    return records.load(path)
  try:
    if path.suffix == '.parquet':
      return pd.read_parquet(path)
    if path.suffix in ('.csv', '.tsv', '.txt'):
      return pd.read_csv(path, sep=None, engine='python')
  except (ValueError, OSError, pd.errors.ParserError) as error:
    raise errors.RecordError(f'{path}: cannot be read: {error}') from error
  raise errors.RecordError(
    f'{path}: a table is .jsonl (records), .parquet, .csv or .tsv'
  )


def is_records(table: pd.DataFrame) -> bool:
  """Whether a table has the columns of RunRecord."""
  return set(table.columns) >= _RECORD


def select(table: pd.DataFrame, filters: Mapping[str, str]) -> pd.DataFrame:
  """Rows whose columns equal the given values (compared as text or number).

  Raises:
    ConfigError: an unknown column.
  """
  for column, value in filters.items():
    if column not in table:
      raise errors.ConfigError(
        f'filter: no column {column!r}; the table has '
        f'{", ".join(map(str, table.columns[:12]))}'
      )
    values = table[column]
    same = values.astype(str) == value
    if pd.api.types.is_numeric_dtype(values):
      number = pd.to_numeric(pd.Series([value]), errors='coerce')[0]
      if pd.notna(number):
        same = values.astype('float64') == float(number)
    table = table[same.fillna(False).astype(bool)]
  return table


def from_columns(
  table: pd.DataFrame,
  columns: Mapping[str, str],
  conventions: Conventions | None = None,
  units: Mapping[str, float] | None = None,
) -> pd.DataFrame:
  """A foreign table under the names n, d, c, y, name, run_id, role.

  Args:
    table: any.
    columns: {n | d | c | u | y | name | run: column of the table}.
    conventions: fills c = k N D, or d = c / (k N), when one is missing.
    units: {n | d | c | u: parameters, tokens or FLOP in one unit of the
      column}, as 1e6 for millions.

  Returns:
    A float64 table with n, d, c (NaN where unknown), y and the rest.

  Raises:
    ConfigError: a column that the table lacks, or that is not numeric.
  """
  k = (conventions or Conventions()).k
  out = pd.DataFrame(index=range(len(table)))
  for key in ('n', 'd', 'c', 'u', 'y'):
    column = columns.get(key)
    if column is None:
      out[key] = np.nan
      continue
    if column not in table:
      raise errors.ConfigError(
        f'no column {column!r} for {key}; the table has '
        f'{", ".join(map(str, table.columns[:16]))}'
      )
    try:
      values = table[column].to_numpy(dtype='float64', na_value=np.nan)
      out[key] = values * (units or {}).get(key, 1.0)
    except (TypeError, ValueError) as error:
      raise errors.ConfigError(f'column {column!r} is not numeric') from error
  if columns.get('c') is None:
    out['c'] = k * out['n'] * out['d']
  elif columns.get('d') is None:
    out['d'] = out['c'] / (k * out['n'])
  elif columns.get('n') is None:
    out['n'] = out['c'] / (k * out['d'])
  for key, fallback in (('name', 'name'), ('run', 'run_id')):
    column = columns.get(key) or fallback
    if column in table:
      out['run_id' if key == 'run' else key] = table[column].to_numpy()
  if 'run_id' not in out:
    out['run_id'] = [str(i) for i in range(len(out))]
  if 'name' not in out:
    out['name'] = out['run_id']
  for column in ('loss_kind', 'tokenizer_id', 'eval_set', 'role'):
    if column in table:
      out[column] = table[column].to_numpy()
  if 'role' not in out:
    out['role'] = 'fit'
  return out


def from_records(
  table: pd.DataFrame, metric: str, conventions: Conventions
) -> pd.DataFrame:
  """Finished transformer runs under the names n, d, c, y.

  Args:
    table: of RunRecord columns, one row per run or per evaluation.
    metric: a key of METRICS, or the name of a column.
    conventions: what N, D and C count.

  Returns:
    As from_columns; failed and debug runs and tokenizers are left out, and
    so are rows without the metric.

  Raises:
    ConfigError: an unknown metric.
  """
  column = METRICS[metric][0] if metric in METRICS else metric
  if column not in table:
    raise errors.ConfigError(f'records have no column {column!r}')
  keep = table['role'].fillna('fit').isin(['fit', 'holdout'])
  keep &= table['task'].fillna('generate') != 'reconstruct'
  table = table[keep]
  out = pd.DataFrame(index=range(len(table)))

  def get(name: str) -> np.ndarray:
    return table[name].to_numpy(dtype='float64', na_value=np.nan)

  seen = get('tokens_seen')
  out['n'] = {
    'body': lambda: get('params_body'),
    'total': lambda: get('params_total'),
    'body_no_adaln': lambda: get('params_body') - get('params_adaln'),
    'body_head': lambda: get('params_total') - get('params_adaln'),
    'effective': lambda: get('flops_train_body') / (6.0 * seen),
  }[conventions.n]()
  unique = get('unique_images') * get('positions_per_image')
  out['d'] = seen if conventions.d == 'seen' else np.fmin(unique, seen)
  out['u'] = np.fmin(unique, seen)
  out['c'] = {
    'total': lambda: get('flops_train_total'),
    'body': lambda: get('flops_train_body'),
    'planned': lambda: (
      get('flops_train_total') * get('total_steps') / get('steps')
    ),
    'knd': lambda: conventions.k * out['n'].to_numpy() * seen,
  }[conventions.c]()
  out['y'] = get(column)
  for name in ('run_id', 'name', 'loss_kind', 'tokenizer_id', 'eval_set'):
    out[name] = table[name].to_numpy()
  out['role'] = table['role'].fillna('fit').to_numpy()
  out['status'] = table['status'].to_numpy()
  out['steps'] = get('steps')
  return out[out['y'].notna()].reset_index(drop=True)


def drop_highest(y: np.ndarray, count: int) -> np.ndarray:
  """Mask of rows kept when the `count` highest losses are dropped.

  A relative count, so that it does not depend on units; Besiroglu et al.
  drop five points of Chinchilla this way.
  """
  keep = np.ones(len(y), bool)
  if count > 0:
    keep[np.argsort(-y, kind='stable')[:count]] = False
  return keep

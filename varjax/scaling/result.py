"""The result file: plain JSON, never a NaN, written whole or not at all.

Reports and plans read this file and nothing else; docs/fit_schema.md is its
schema.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from varjax import errors

SCHEMA = 1


def clean(value: Any, path: str = '', lost: list[str] | None = None) -> Any:
  """Plain JSON values: NumPy becomes Python; NaN and infinity, null.

  Args:
    value: anything nested.
    path: where it is, for `lost`.
    lost: collects the paths of values that became null.
  """
  if isinstance(value, dict):
    return {
      str(k): clean(v, f'{path}.{k}' if path else str(k), lost)
      for k, v in value.items()
    }
  if isinstance(value, list | tuple):
    return [clean(v, path, lost) for v in value]
  if isinstance(value, np.ndarray):
    return clean(value.tolist(), path, lost)
  if value is None or value is pd.NA or value is pd.NaT:
    return None
  if isinstance(value, bool | np.bool_):
    return bool(value)
  if isinstance(value, int | np.integer):
    return int(value)
  if isinstance(value, float | np.floating):
    if math.isfinite(value):
      return float(value)
    if lost is not None:
      lost.append(path)
    return None
  return value if isinstance(value, str) else str(value)


def finish(result: dict[str, Any]) -> dict[str, Any]:
  """Cleans every fit of a result and says where values are not known."""
  fits = [_finish_one(f) for f in result.get('fits', [])]
  out = _finish_one({k: v for k, v in result.items() if k != 'fits'})
  return {**out, 'fits': fits}


def _finish_one(fit: dict[str, Any]) -> dict[str, Any]:
  lost: list[str] = []
  out = clean(fit, lost=lost)
  # Only what a reader would quote deserves a warning.
  quoted = ('params', 'derived', 'sigma_log', 'condition', 'objective')
  names = sorted({p for p in lost if p.split('.')[0] in quoted})
  if names and 'warnings' in out:
    out['warnings'].append(f'not known, shown as null: {", ".join(names)}')
  return out


def write(result: dict[str, Any], folder: str | os.PathLike[str]):
  """Writes `fit.json` atomically and returns its path."""
  path = pathlib.Path(folder) / 'fit.json'
  text = json.dumps(finish(result), indent=1, allow_nan=False)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  partial.write_text(text + '\n')
  os.replace(partial, path)
  return path


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """A result file, checked for its schema.

  Raises:
    RecordError: missing, not JSON, or of a newer schema.
  """
  path = pathlib.Path(path)
  path = path / 'fit.json' if path.is_dir() else path
  try:
    found = json.loads(path.read_text())
  except (OSError, json.JSONDecodeError) as error:
    raise errors.RecordError(f'{path}: not a fit result: {error}') from error
  if found.get('kind') != 'varjax.fit' or found.get('schema', 0) > SCHEMA:
    raise errors.RecordError(
      f'{path}: not a fit result of schema {SCHEMA} or older'
    )
  return found

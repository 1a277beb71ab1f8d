"""Logged metrics of a run: metrics.jsonl always, TensorBoard on request.

After the train step and the evaluator; for people and plots. Scaling fits
read the run record instead. Only the first process writes.
"""

from __future__ import annotations

from collections.abc import Mapping
import importlib.util
import json
import math
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from varjax import errors, jsonlines
from varjax.types import PyTree

FILE = 'metrics.jsonl'


class MetricWriter:
  """Appends one JSON line per call of `write`.

  A line is {"step": 100, "train/loss": 7.1, "eval/loss_scales": [...]}.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    tensorboard: bool = False,
    resume_step: int = 0,
  ):
    """Opens the file; rows after `resume_step` are removed.

    Args:
      workdir: of the run.
      tensorboard: also write event files, through clu.
      resume_step: the restored step; the run will write later rows again.

    Raises:
      ConfigError: TensorBoard is asked for and TensorFlow is missing.
    """
    if tensorboard and not tensorboard_available():
      raise errors.ConfigError(
        'TensorBoard needs the packages clu and tensorflow; install '
        "'varjax[tensorboard]', or leave it off: metrics.jsonl is always "
        'written'
      )
    self._file = None
    self._events = None
    if jax.process_index():
      return
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    _drop_after(folder / FILE, resume_step)
    self._file = open(folder / FILE, 'a')  # noqa: SIM115, closed in close
    if tensorboard:
      # Imports TensorFlow: seconds, and never without it (see
      # tensorboard_available).
      from clu import metric_writers

      self._events = metric_writers.SummaryWriter(str(folder / 'tensorboard'))

  def write(
    self, step: int, values: Mapping[str, Any], prefix: str = 'train'
  ) -> None:
    """Writes the metrics of one step.

    Args:
      step: updates made.
      values: scalars, or vectors such as a loss per scale, on the host or a
        device; a value that is not finite becomes null.
      prefix: 'train' or 'eval'; names become 'train/loss'.
    """
    if self._file is None:
      return
    host = jax.device_get(dict(values))
    row = {f'{prefix}/{name}': _plain(value) for name, value in host.items()}
    self._file.write(json.dumps({'step': int(step), **row}) + '\n')
    self._file.flush()
    if self._events is not None:
      self._events.write_scalars(int(step), _scalars(prefix, host))

  def close(self) -> None:
    """Flushes to the disk."""
    if self._file is not None:
      self._file.flush()
      os.fsync(self._file.fileno())
      self._file.close()
    if self._events is not None:
      self._events.close()


def read(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The rows of metrics.jsonl in file order; an unfinished one is skipped."""
  path = pathlib.Path(workdir) / FILE
  if not path.is_file():
    return []
  return [row for _, row in jsonlines.read(path)]


def tensorboard_available() -> bool:
  """Whether clu's writers can be imported.

  Looked up, not tried: a failed import of clu.metric_writers leaves
  half-loaded modules behind.
  """
  needed = ('clu', 'tensorflow', 'tensorboard')
  return all(importlib.util.find_spec(module) for module in needed)


def parameter_overview(params: PyTree) -> str:
  """A table of names, shapes and sizes, with the total.

  Args:
    params: arrays or ShapeDtypeStructs, boxed or not.
  """
  # Imported here: models and samplers run without clu.
  from clu import parameter_overview as overview

  return overview.get_parameter_overview(
    nn.meta.unbox(params), include_stats=False
  )


def _plain(value: Any) -> Any:
  array = np.asarray(value, np.float64)
  if array.ndim:
    return [_plain(item) for item in array]
  if not math.isfinite(array):
    return None
  # Counts stay integers, float32 does not become 17 digits.
  if np.issubdtype(np.asarray(value).dtype, np.integer):
    return int(array)
  return float(f'{float(array):.9g}')


def _scalars(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
  scalars = {}
  for name, value in values.items():
    array = np.asarray(value)
    if not array.ndim:
      scalars[f'{prefix}/{name}'] = float(array)
    else:
      for index, item in enumerate(array.ravel()):
        scalars[f'{prefix}/{name}/{index}'] = float(item)
  return scalars


def _drop_after(path: pathlib.Path, step: int) -> None:
  """Rewrites the file without rows after `step`, atomically."""
  if not path.is_file():
    return
  kept = [row for row in read(path.parent) if row['step'] <= step]
  partial = path.with_suffix('.partial')
  with open(partial, 'w') as file:
    file.writelines(json.dumps(row) + '\n' for row in kept)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)

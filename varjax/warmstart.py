"""Fine-tuning: a run that starts from the weights of another one.

The optimiser, the schedule and the data start anew. Only the class
embedding may differ, so that a model can learn other classes; it is then
left as it was initialised. Source: what users of VAR do to fine-tune.
"""

from __future__ import annotations

import os

from flax import traverse_util
import jax
import numpy as np

from varjax import checkpoint, errors, identity
from varjax.types import PyTree

# A row for each class, and one for "no class".
_CLASSES = 'embed/classes/embedding'


def content_id(workdir: str | os.PathLike[str]) -> str:
  """Hash of the newest weights in a workdir, 16 hexadecimal digits.

  Raises:
    CheckpointError: there is no checkpoint, or it cannot be read.
  """
  entry = checkpoint.weights_entry(workdir)
  return identity.digest(checkpoint.content(workdir, entry))[:16]


def start_from(workdir: str | os.PathLike[str], params: PyTree) -> PyTree:
  """The newest weights of a workdir, in place of initial ones.

  Averaged ones where that run kept an average.

  Args:
    workdir: of a stage-2 run, or of an import.
    params: initial weights, placed as they shall be.

  Returns:
    The same tree with the same shardings. The class embedding is the
    initial one where the number of classes differs.

  Raises:
    CheckpointError: a weight is missing, superfluous or of another shape.
  """
  saved = checkpoint.load_weights(workdir)
  found = traverse_util.flatten_dict(saved, sep='/')
  mine = traverse_util.flatten_dict(params, sep='/')
  for name in sorted(found.keys() ^ mine.keys()):
    where = 'the run has' if name in mine else f'{workdir} has'
    raise errors.CheckpointError(
      f'init_from={workdir}: only {where} the weight {name}; model and order '
      'must be those of that run'
    )
  started = {}
  for name, initial in mine.items():
    value = found[name]
    if _is_class_table(name, initial, value):
      started[name] = initial
      continue
    if value.shape != initial.shape:
      raise errors.CheckpointError(
        f'init_from={workdir}: {name} has shape {value.shape} there, this '
        f'run needs {initial.shape}'
      )
    started[name] = jax.device_put(
      value.astype(initial.dtype), initial.sharding
    )
  return traverse_util.unflatten_dict(started, sep='/')


def _is_class_table(name: str, initial: jax.Array, value: np.ndarray) -> bool:
  """True for class embeddings that differ in their number of rows alone."""
  return (
    name == _CLASSES
    and value.shape[0] != initial.shape[0]
    and value.shape[1:] == initial.shape[1:]
  )

"""The identity of a trained tokenizer.

Codes mean nothing without the weights that made them, so caches, runs and
fits carry this id, and results of different tokenizers are never mixed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

from flax import traverse_util
from flax.core import meta
import numpy as np

from varjax.spec import TokenizerSpec
from varjax.types import PyTree


def tokenizer_id(spec: TokenizerSpec, params: PyTree) -> str:
  """SHA-256 of the spec and of every weight's name, shape and bytes.

  Args:
    spec: all of its fields take part, but those that were added later and
      have their default, so that old tokenizers keep their ids.
    params: nested dict of arrays, boxed or not; hashed as little-endian
      float32.

  Returns:
    16 hexadecimal digits.
  """
  content = dataclasses.asdict(spec)
  for field in dataclasses.fields(spec):
    if 'added' in field.metadata and content[field.name] == field.default:
      del content[field.name]
  text = json.dumps(content, sort_keys=True)
  sha = hashlib.sha256(text.encode())
  flat = traverse_util.flatten_dict(meta.unbox(params), sep='/')
  for name in sorted(flat):
    values = np.ascontiguousarray(np.asarray(flat[name], '<f4'))
    sha.update(f'{name}{values.shape}'.encode())
    sha.update(values.tobytes())
  return sha.hexdigest()[:16]

"""Kinds of fields of a spec, and what they mean for the id of a run."""

from __future__ import annotations

import dataclasses
from typing import Any


def not_identity(default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
  """A field that does not take part in the run id."""
  if default is not dataclasses.MISSING:
    kwargs['default'] = default
  return dataclasses.field(metadata={'identity': False}, **kwargs)


def added(default: Any) -> Any:
  """A field younger than the first trained tokenizers.

  Their ids are hashes of their fields: it takes part where it is set.
  """
  return dataclasses.field(default=default, metadata={'added': True})

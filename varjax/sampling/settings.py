"""Settings of a sampler, as callers change them."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from varjax import coerce, errors
from varjax.spec import SampleSpec


def changed(defaults: SampleSpec, changes: Mapping[str, Any]) -> SampleSpec:
  """The defaults with `changes`; None changes nothing.

  Raises:
    ConfigError: a setting that does not exist, or of another type.
  """
  hints = coerce.hints_of(SampleSpec)
  unknown = sorted(set(changes) - set(hints))
  if unknown:
    raise errors.ConfigError(
      f'{unknown[0]}: is no setting of a sampler; must be one of '
      f'{", ".join(hints)}'
    )
  given = {
    key: coerce.coerce(_plain(value), hints[key], key)
    for key, value in changes.items()
    if value is not None
  }
  return dataclasses.replace(defaults, **given)


def _plain(value: Any) -> Any:
  """A number of NumPy as one of Python."""
  return value.item() if isinstance(value, np.generic) else value

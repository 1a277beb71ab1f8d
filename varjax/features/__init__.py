"""Pretrained networks that metrics and perceptual losses look through."""

from __future__ import annotations

from collections.abc import Callable
import os

from varjax import errors
from varjax.features import efficientnet, inception
from varjax.features.base import Features, Network

__all__ = ['NETWORKS', 'Features', 'Network', 'load']

# Each takes a file of weights, '' for those that come in a package.
NETWORKS: dict[str, Callable[[str | os.PathLike[str]], Network]] = {
  efficientnet.NAME: efficientnet.load,
  inception.NAME: inception.load,
}


def load(name: str, path: str | os.PathLike[str] = '') -> Network:
  """The feature network called `name`.

  Args:
    name: key of `NETWORKS`.
    path: file of its weights; '' where a package brings them.

  Raises:
    ConfigError: no network of that name.
    CheckpointError: the weights are missing, damaged or hostile.
  """
  if name not in NETWORKS:
    raise errors.ConfigError(
      f'feature network {name!r} is unknown; allowed: {", ".join(NETWORKS)}'
    )
  return NETWORKS[name](path)

"""Perceptual losses: distances of image pairs as a frozen network sees them.

`PERCEPTUAL` names every kind. LPIPS (Zhang et al., arXiv 1801.03924) is what
tokenizers are usually trained with, and needs weights that ship in no
package. The maps of the packaged EfficientNet-Lite0 give an unlearned
distance, the mean over the channels of each map: not LPIPS, nor that paper's
baseline, which is their sum, and named after its network.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Protocol

from jaxtyping import Array, Float

from varjax.evals import perceptual
from varjax.features import efficientnet, lpips
from varjax.features.base import Network
from varjax.types import PyTree


class Perceptual(Protocol):
  """A frozen network and the distance in its maps.

  Attributes:
    params: weights, passed to `distance`, so that none is compiled in.
    identity: name and hash of the weights; equal means comparable.
  """

  @property
  def params(self) -> PyTree:
    """Weights."""
    ...

  @property
  def identity(self) -> str:
    """Name and hash of the weights."""
    ...

  def distance(
    self,
    params: PyTree,
    images: Float[Array, 'B H W 3'],
    others: Float[Array, 'B H W 3'],
  ) -> Float[Array, ' B']:
    """Of each pair of images in [0, 255]; 0 for equal ones."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class MapDistance:
  """A `Perceptual` of any feature network: maps count by their mean channel."""

  network: Network

  @property
  def params(self) -> PyTree:
    """Weights of the network."""
    return self.network.params

  @property
  def identity(self) -> str:
    """Of the network."""
    return self.network.identity

  def distance(
    self,
    params: PyTree,
    images: Float[Array, 'B H W 3'],
    others: Float[Array, 'B H W 3'],
  ) -> Float[Array, ' B']:
    """Of each pair of images in [0, 255], at the size that they have."""
    forward = self.network.forward
    maps = forward(params, images).maps, forward(params, others).maps
    return perceptual.distance(*maps)


# Each takes the file of weights, '' for those of a package.
PERCEPTUAL: dict[str, Callable[[str], Perceptual]] = {
  efficientnet.NAME: lambda path: MapDistance(efficientnet.load(path)),
  lpips.NAME: lpips.load,
}

"""Binary spherical quantisation: signs of a feature of unit length.

Feature and code lie on one sphere, so the rounding error is bounded however
many bits there are (BSQ, arXiv 2406.07548, sections 4.1 and 4.2).
"""

from __future__ import annotations

import flax.struct
from jaxtyping import Array, Float

from varjax.tokenizers import nearest
from varjax.tokenizers.lfq import LookupFreeQuantizer


@flax.struct.dataclass
class SphericalQuantizer(LookupFreeQuantizer):
  """`LookupFreeQuantizer` on the unit sphere, codes [B, L, R].

  The straight-through gradient passes through the projection to the sphere.
  """

  @property
  def _magnitude(self) -> float:
    return self.spec.code_dim**-0.5

  def _normal(self, z: Float[Array, 'B L C']) -> Float[Array, 'B L C']:
    return nearest.unit(z)

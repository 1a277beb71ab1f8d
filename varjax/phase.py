"""One part of an update: its products, bytes and kernels, and their time.

What `phases` counts an update in. No JAX in here.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses

from varjax.devices import Device, float8_flops


@dataclasses.dataclass(frozen=True)
class Phase:
  """A part of an update, over all layers.

  Attributes:
    name: what it is.
    flops: of matrix products.
    bytes: read and written in device memory.
    launches: kernels.
    float8: of the FLOPs, those of float8 products.
  """

  name: str
  flops: int
  bytes: int
  launches: int
  float8: int = 0

  def seconds(self, device: Device) -> float:
    """The longer of computing and moving, at measured speeds if known.

    float8 products, which nobody has timed, are taken to reach the same
    share of their peak.

    Raises:
      ConfigError: there are some, and the device has none.
    """
    speed = device.reached_flops
    computing = (self.flops - self.float8) / speed
    if self.float8:
      peak = float8_flops(device)
      computing += self.float8 * device.peak_flops / speed / peak
    return max(computing, self.bytes / device.reached_bandwidth)


def together(name: str, phases: Iterable[Phase]) -> Phase:
  """Their sum, whose `seconds` overlap perfectly."""
  phases = tuple(phases)
  return Phase(
    name,
    sum(p.flops for p in phases),
    sum(p.bytes for p in phases),
    sum(p.launches for p in phases),
    sum(p.float8 for p in phases),
  )


def total(phases: Iterable[Phase]) -> Phase:
  """All of them as one."""
  return together('total', phases)


def serial_seconds(phases: Iterable[Phase], device: Device) -> float:
  """One phase after the other, each at its own roofline."""
  return sum(phase.seconds(device) for phase in phases)

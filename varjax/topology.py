"""Slices of accelerators named as `v5e:4x4`, `v5p:4x4x4` or `h100:8`.

Between the device table and the roofline of a plan. No JAX in here.
"""

from __future__ import annotations

import dataclasses
import math

from varjax import devices, errors
from varjax.devices import Device


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices joined by one interconnect.

  Attributes:
    device: one of them.
    axes: of the torus; one number for GPUs behind a switch.
  """

  device: Device
  axes: tuple[int, ...]

  @property
  def count(self) -> int:
    """Devices in all."""
    return math.prod(self.axes)

  def __str__(self) -> str:
    return f'{self.device.name}:{"x".join(map(str, self.axes))}'

  @property
  def bandwidth(self) -> float:
    """Bytes/s that one device sends, one way, over all links that exist.

    An axis of the torus gives two links where it closes to a ring and one
    where it is a line; an axis of one device gives none. A ring is closed
    over the whole length of a 2-D pod (16), and for multiples of 4 in 3-D
    (cubes of 4 x 4 x 4 joined by optical switches).
    """
    link = self.device.link_bandwidth or 0.0
    if self.count == 1:
      return math.inf
    if not self.device.torus:
      return link
    return link * sum(self._links(size) for size in self.axes if size > 1)

  def _links(self, size: int) -> int:
    if self.device.torus == 2:
      return 2 if size == 16 else 1
    whole = all(axis % 4 == 0 for axis in self.axes)
    return 2 if whole and size % 4 == 0 else 1


def slices(device: Device) -> tuple[Topology, ...]:
  """Slices of a TPU that doubling makes, small to large; others exist.

  Up to a pod of v5e or v6e and 512 chips in three dimensions; GPUs by
  doubling up to a node.
  """
  dimensions = device.torus or 1
  smallest = {2: (2, 2), 3: (2, 2, 1)}.get(device.torus, (1,))
  largest = min(device.island, 512)
  found = [Topology(device, smallest)]
  while (last := found[-1]).count * 2 <= largest:
    axes = list(last.axes)
    # The last of the shortest axes doubles: 2x2, 2x4, 4x4.
    short = max(i for i in range(dimensions) if axes[i] == min(axes))
    axes[short] *= 2
    found.append(Topology(device, tuple(axes)))
  return tuple(found)


def parse(text: str) -> Topology:
  """The topology of a text such as `v5e:4x4`.

  Args:
    text: `device:axes`, sizes of the axes joined by x.

  Raises:
    ConfigError: not such a text, an unknown device, the wrong number of
      axes, or more devices than one interconnect joins.
  """
  name, colon, shape = text.partition(':')
  sizes = shape.split('x')
  if not colon or not all(s.isascii() and s.isdigit() for s in sizes):
    raise errors.ConfigError(
      f'topology {text!r}: write device:sizes as v5e:4x4, v5p:4x4x4, h100:8'
    )
  device = devices.get(name)
  axes = tuple(int(s) for s in sizes)
  wanted = device.torus or 1
  if len(axes) != wanted or min(axes) < 1:
    raise errors.ConfigError(
      f'topology {text!r}: {name} needs {wanted} positive '
      f'size{"s" if wanted > 1 else ""}, as '
      f'{name}:{"x".join(["4"] * wanted)}'
    )
  if math.prod(axes) > device.island:
    raise errors.ConfigError(
      f'topology {text!r}: one interconnect joins at most {device.island} '
      f'{name}; what lies between several is not modelled, give --device, '
      '--devices and --mfu'
    )
  return Topology(device, axes)

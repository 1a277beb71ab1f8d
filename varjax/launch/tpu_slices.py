"""TPU slices as the schedulers of Google Cloud name them.

Sources: the pages "TPU v5e", "TPU v5p", "TPU v6e" and "TPU v4" of the Cloud
TPU documentation, "Plan TPUs in GKE" of the GKE documentation.
"""

from __future__ import annotations

import dataclasses

from varjax import errors, topology

# By generation: the node pool's name in GKE, the prefix of a type, and what
# a type counts per chip: v4 and v5p types count TensorCores.
_NAMES = {
  'v4': ('tpu-v4-podslice', 'v4', 2),
  'v5e': ('tpu-v5-lite-podslice', 'v5litepod', 1),
  'v5p': ('tpu-v5p-slice', 'v5p', 2),
  'v6e': ('tpu-v6e-slice', 'v6e', 1),
}
_CHIPS_PER_HOST = 4
# The generations of which one host may hold eight chips, as 2x4.
_EIGHT_ON_A_HOST = ('v5e', 'v6e')


@dataclasses.dataclass(frozen=True)
class Slice:
  """One TPU slice.

  Attributes:
    shape: '4x4', without the generation.
    accelerator: of a GKE node pool, such as 'tpu-v5-lite-podslice'.
    kind: accelerator type, such as 'v5litepod-16'.
    generation: as Ray and Cloud TPU call it, such as 'v5litepod'.
    hosts, chips_per_host: what a job has to ask for.
  """

  shape: str
  accelerator: str
  kind: str
  generation: str
  hosts: int
  chips_per_host: int


def parse(text: str) -> Slice:
  """The slice of a text such as 'v5e:4x4'.

  Raises:
    ConfigError: not such a text, or not a TPU that can be asked for.
  """
  try:
    given = topology.parse(text)
  except errors.ConfigError as error:
    raise errors.ConfigError(f'--tpu: {error}') from error
  name = given.device.name
  if name not in _NAMES:
    raise errors.ConfigError(
      f'--tpu={text}: must be one of {", ".join(_NAMES)} with a topology'
    )
  accelerator, generation, per_chip = _NAMES[name]
  on_one = given.count <= _CHIPS_PER_HOST or (
    given.count == 8 and name in _EIGHT_ON_A_HOST
  )
  hosts = 1 if on_one else given.count // _CHIPS_PER_HOST
  return Slice(
    shape='x'.join(map(str, given.axes)),
    accelerator=accelerator,
    kind=f'{generation}-{given.count * per_chip}',
    generation=generation,
    hosts=hosts,
    chips_per_host=given.count // hosts,
  )

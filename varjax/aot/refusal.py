"""What the TPU compiler says when a program does not fit, as numbers.

Its message is text alone, of two kinds. One counts everything: "Ran out of
memory in memory space hbm. Used 20.20G of 15.75G hbm." The other comes
before buffers are placed and counts the step's own arrays, without the
arguments: "the total memory required for HLO temporaries (22.76G) exceeds
available HBM (15.75G)". No JAX in here.
"""

from __future__ import annotations

import dataclasses
import re

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_SIZE = r'([\d.]+)\s*([KMGT]?)i?B?'
_WHOLE = re.compile(rf'[Uu]sed {_SIZE} of {_SIZE} hbm')
_TEMPORARIES = re.compile(
  rf'required for HLO temporaries \({_SIZE}\) exceeds available HBM '
  rf'\({_SIZE}\)'
)


@dataclasses.dataclass(frozen=True)
class OutOfHbm:
  """The compiler's refusal of a program.

  Attributes:
    used_bytes: that one device would need; without the arguments where
      `partial`.
    limit_bytes: that it has.
    partial: whether `used_bytes` leaves out the arguments.
  """

  used_bytes: int
  limit_bytes: int
  partial: bool


def parse(message: str) -> OutOfHbm | None:
  """The sizes in a compiler's error, None when it is of another kind."""
  for pattern, partial in ((_WHOLE, False), (_TEMPORARIES, True)):
    if found := pattern.search(message):
      used, limit = _bytes(found[1], found[2]), _bytes(found[3], found[4])
      return OutOfHbm(used, limit, partial)
  return None


def _bytes(number: str, unit: str) -> int:
  return round(float(number) * _UNITS[unit])

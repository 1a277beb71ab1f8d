"""What the TPU compiler says when a program does not fit, as numbers.

Its message is text alone, such as "Ran out of memory in memory space hbm.
Used 20.20G of 15.75G hbm. Exceeded hbm capacity by 4.45G." No JAX in here.
"""

from __future__ import annotations

import dataclasses
import re

_UNITS = {'': 1, 'B': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_SIZE = r'([\d.]+)\s*([KMGT]?)i?B?'
_USED = re.compile(rf'[Uu]sed {_SIZE} of {_SIZE}(?: of)?\s+hbm')
_PART = re.compile(rf'^\s*(reserved|program|arguments)\s+{_SIZE}\s*$', re.M)


@dataclasses.dataclass(frozen=True)
class OutOfHbm:
  """The compiler's refusal of a program.

  Attributes:
    used_bytes: that one device would need.
    limit_bytes: that it has.
    parts: 'reserved', 'program' and 'arguments', where the message tells.
  """

  used_bytes: int
  limit_bytes: int
  parts: dict[str, int]


def parse(message: str) -> OutOfHbm | None:
  """The sizes in a compiler's error, None when it is of another kind."""
  found = _USED.search(message)
  if not found:
    return None
  return OutOfHbm(
    used_bytes=_bytes(found[1], found[2]),
    limit_bytes=_bytes(found[3], found[4]),
    parts={
      part[1]: _bytes(part[2], part[3]) for part in _PART.finditer(message)
    },
  )


def _bytes(number: str, unit: str) -> int:
  return round(float(number) * _UNITS[unit])

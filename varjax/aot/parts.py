"""Where the bytes of a compiled update go: by pass and by part of the model.

XLA keeps, in each instruction, the path of the JAX operation that it came
from; a fusion has the path of its last one. That is enough to say which
part of the network moves how much and in how many kernels: a profile
without a device, of traffic and not of time. No JAX in here.
"""

from __future__ import annotations

import dataclasses
import re

from varjax.aot import traffic
from varjax.hlo import Instruction

_PATH = re.compile(r'op_name="([^"]*)"')
_ROOTS = ('blocks', 'embed', 'adaln', 'head')
_PRODUCTS = ('custom-call', 'dot', 'convolution')
_STACKS = ('dynamic_update_slice', 'dynamic_slice')


@dataclasses.dataclass(frozen=True)
class Part:
  """Kernels of one kind, in one pass, of one part of the model.

  Attributes:
    step: 'forward', 'recompute', 'backward', or 'update' for the loss'
      surroundings and the optimiser.
    place: module path, as `blocks/mlp/fc1`; 'scan' for the stacking of what
      a loop over layers keeps, 'other' for what has no path.
    kind: 'product' of matrices (or a library's kernel), or 'element-wise'.
    bytes: through memory in one update.
    launches: kernels in one update, every trip of a loop counted.
  """

  step: str
  place: str
  kind: str
  bytes: float
  launches: int


def parts(text: str) -> tuple[Part, ...]:
  """The parts of an optimised module, most bytes first.

  Raises:
    ConfigError: the text is not a module.
  """
  found: dict[tuple[str, str, str], tuple[float, int]] = {}
  for move in traffic.moves(text):
    if not move.bytes:
      continue
    key = (*_where(move.line), _kind(move.line))
    size, launches = found.get(key, (0.0, 0))
    found[key] = (size + move.bytes, launches + move.trips)
  listed = [Part(*key, *counts) for key, counts in found.items()]
  return tuple(sorted(listed, key=lambda part: -part.bytes))


def table(listed: tuple[Part, ...], most: int = 20) -> str:
  """The largest parts for people, with a line for the rest."""
  total = sum(part.bytes for part in listed) or 1.0
  rows = [('pass', 'part', 'kind', 'GiB', 'share', 'kernels')]
  for part in listed[:most]:
    rows.append((part.step, part.place, part.kind, *_counts(part, total)))
  if rest := listed[most:]:
    size = sum(part.bytes for part in rest)
    launches = sum(part.launches for part in rest)
    summed = Part('', f'{len(rest)} more', '', size, launches)
    rows.append(('', summed.place, '', *_counts(summed, total)))
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return '\n'.join(
    '  '.join(
      cell.ljust(width) if i < 3 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  )


def _counts(part: Part, total: float) -> tuple[str, str, str]:
  share = 100 * part.bytes / total
  return f'{part.bytes / 2**30:.2f}', f'{share:.1f} %', f'{part.launches:,}'


def _where(line: Instruction) -> tuple[str, str]:
  """(pass, place) of an instruction."""
  match = _PATH.search(line.rest)
  if match is None:
    return 'update', 'other'
  path = match[1]
  steps = path.split('/')
  if 'rematted_computation' in steps:
    step = 'recompute'
  elif 'transpose(' in path:
    step = 'backward'
  else:
    step = 'forward' if 'jvp(' in path else 'update'
  for root in _ROOTS:
    if root in steps:
      inner = steps[len(steps) - 1 - steps[::-1].index(root) : -1]
      # `attention._unit` is a method, `ab,bc->ac` an einsum.
      named = [name.rpartition('._')[2] for name in inner if '->' not in name]
      return step, '/'.join(named)
  if steps[-1] in _STACKS:
    return step, 'scan'
  return step, 'other'


def _kind(line: Instruction) -> str:
  return 'product' if line.opcode in _PRODUCTS else 'element-wise'

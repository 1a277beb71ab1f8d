"""What devices say to each other, read from a compiled program.

`parse` finds every collective of `jitted.lower(...).compile().as_text()`,
for CPU, GPU or TPU: its kind, the arrays, the groups of devices, and how
often one call of the program runs it. Sharding tests count them; planning
for a pod turns them into time on the wires.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import math
import re

from varjax import errors, replica_groups
from varjax.replica_groups import Groups

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{\s*$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')
_ARRAY = re.compile(r'\b(pred|token|[a-z]+\d+[a-z0-9]*)\[([\d,<=]*)\]')
_CALLED = re.compile(
  r'\b(calls|to_apply|body|condition|branch_computations|true_computation|'
  r'false_computation|called_computations)='
  r'(\{[^}]*\}|%?[\w.\-]+)'
)
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"?(\d+)')
_CONSTANT = re.compile(r'[su]\d+\[\]\S* constant\((\d+)\)')
_PAIRS = re.compile(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}')
_BITS = re.compile(r'[a-z]+(\d+)')


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of HLO, as one device holds it."""

  dtype: str
  shape: tuple[int, ...]

  @property
  def bytes(self) -> int:
    """Bytes of its elements, without padding."""
    return math.ceil(math.prod(self.shape) * _bits(self.dtype) / 8)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective instruction.

  Attributes:
    kind: one of KINDS, whether synchronous, asynchronous or fused.
    name: of the instruction.
    arrays: results on one device; several where XLA combined collectives.
    groups: device numbers that act together; for 'collective-permute' the
      (source, target) pairs.
    trips: how often one call of the program runs it, loops multiplied.
    bounded: False when a loop around it has no known number of trips, which
      is then counted as 1.
    op_name: where it comes from in the traced program, '' if unknown.
  """

  kind: str
  name: str
  arrays: tuple[Array, ...]
  groups: Groups
  trips: int = 1
  bounded: bool = True
  op_name: str = ''

  @property
  def bytes(self) -> int:
    """Bytes of the results on one device, of one execution."""
    return sum(array.bytes for array in self.arrays)

  @property
  def group_size(self) -> int:
    """Devices in each group."""
    return len(self.groups[0]) if self.groups else 1

  @property
  def wire_bytes(self) -> float:
    """Bytes that each device sends in one execution, on a ring.

    Chan et al. 2007 (doi 10.1002/cpe.1206): the lower bounds that ring
    algorithms reach. A reduce-scatter sends n - 1 times its small result.
    """
    if self.kind == 'collective-permute':
      return float(self.bytes)
    n = self.group_size
    share = {
      'all-reduce': 2 * (n - 1) / n,
      'reduce-scatter': n - 1,
    }
    return self.bytes * share.get(self.kind, (n - 1) / n)


@dataclasses.dataclass(frozen=True)
class Total:
  """Executions in one call of the program, and bytes on each device."""

  count: int
  bytes: int
  wire_bytes: float


def totals(collectives: Iterable[Collective]) -> dict[str, Total]:
  """Sums by kind, every trip of a loop counted, kinds in order of KINDS."""
  sums: dict[str, Total] = {}
  for one in collectives:
    before = sums.get(one.kind, Total(0, 0, 0.0))
    sums[one.kind] = Total(
      before.count + one.trips,
      before.bytes + one.trips * one.bytes,
      before.wire_bytes + one.trips * one.wire_bytes,
    )
  return {kind: sums[kind] for kind in KINDS if kind in sums}


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  shape: str
  opcode: str
  rest: str  # operands and attributes
  is_root: bool


def parse(hlo: str) -> list[Collective]:
  """Every collective that a call of the program runs, in program order.

  Args:
    hlo: text of an optimised module.

  Raises:
    ConfigError: the text has no entry computation, or its replica groups
      are in a notation that is not known.
  """
  computations, entry = _computations(hlo)
  found = re.search(r'num_partitions=(\d+)', hlo[: hlo.find('\n')])
  replicas = re.search(r'replica_count=(\d+)', hlo[: hlo.find('\n')])
  devices = int(found[1]) if found else int(replicas[1]) if replicas else 1
  collectives: list[Collective] = []

  def visit(name: str, trips: int, bounded: bool) -> None:
    for line in computations.get(name, []):
      kind = line.opcode.removesuffix('-start')
      if kind in KINDS:
        one = _collective(kind, line, computations[name], name, devices)
        one = dataclasses.replace(one, trips=trips, bounded=bounded)
        collectives.append(one)
        continue
      for role, called in _calls(line):
        if line.opcode == 'while':
          count = _trip_count(line, computations)
          visit(called, trips * (1 if count is None else count),
                bounded and count is not None)  # fmt: skip
        elif role != 'to_apply' or line.opcode == 'call':
          visit(called, trips, bounded)

  visit(entry, 1, True)
  return collectives


def _computations(hlo: str) -> tuple[dict[str, list[_Instruction]], str]:
  """Instructions of each computation, and the name of the entry."""
  computations: dict[str, list[_Instruction]] = {}
  current: list[_Instruction] | None = None
  entry = None
  for line in hlo.splitlines():
    if found := _INSTRUCTION.match(line):
      if current is not None:
        current.append(_instruction(found))
    elif found := _COMPUTATION.match(line):
      current = computations.setdefault(found[2], [])
      entry = found[2] if found[1] else entry
  if entry is None:
    raise errors.ConfigError(
      'the text is not a compiled HLO module: it has no ENTRY computation'
    )
  return computations, entry


def _instruction(found: re.Match[str]) -> _Instruction:
  text = found[3]
  end = _shape_end(text)
  opcode = _OPCODE.match(text, end)
  return _Instruction(
    name=found[2],
    shape=text[:end],
    opcode=opcode[1] if opcode else '',
    rest=text[opcode.end() :] if opcode else '',
    is_root=bool(found[1]),
  )


def _shape_end(text: str) -> int:
  """Where the result shape ends; tuples nest, tilings have brackets."""
  depth = 0
  for place, letter in enumerate(text):
    if letter == '(':
      depth += 1
    elif letter == ')':
      depth -= 1
    elif letter == ' ' and depth == 0:
      return place
  return len(text)


def _collective(
  kind: str,
  line: _Instruction,
  siblings: list[_Instruction],
  computation: str,
  devices: int,
) -> Collective:
  shape = line.shape
  if line.opcode in ('all-gather-start', 'collective-permute-start'):
    # (operands, results, contexts...)
    shape = _elements(shape)[1]
  if kind == 'all-reduce' and computation.startswith('all-reduce-scatter'):
    # How the TPU compiler fuses a reduce-scatter: the slice is the root.
    kind = 'reduce-scatter'
    shape = next(i.shape for i in siblings if i.is_root)
  name = re.search(r'op_name="([^"]*)"', line.rest)
  return Collective(
    kind=kind,
    name=line.name,
    arrays=_arrays(shape),
    groups=_groups(kind, line.rest, devices),
    op_name=name[1] if name else '',
  )


def _groups(kind: str, rest: str, devices: int) -> Groups:
  if kind == 'collective-permute':
    pairs = _PAIRS.search(rest)
    if not pairs:
      return ()
    return tuple(
      (int(a), int(b)) for a, b in re.findall(r'\{(\d+),(\d+)\}', pairs[1])
    )
  _, marker, text = rest.partition('replica_groups=')
  return replica_groups.parse(text if marker else '{}', devices)


def _arrays(shape: str) -> tuple[Array, ...]:
  return tuple(
    Array(dtype, tuple(int(d.lstrip('<=')) for d in dims.split(',') if d))
    for dtype, dims in _ARRAY.findall(re.sub(r'\{[^}]*\}', '', shape))
    if dtype != 'token'
  )


def _elements(shape: str) -> list[str]:
  """Top-level elements of a tuple shape."""
  parts, depth, start = [], 0, 1
  for place, letter in enumerate(shape):
    if letter in '([{':
      depth += 1
    elif letter in ')]}':
      depth -= 1
    if (letter == ',' and depth == 1) or (letter == ')' and depth == 0):
      parts.append(shape[start:place])
      start = place + 1
  return parts


def _calls(line: _Instruction) -> list[tuple[str, str]]:
  """(role, computation) of what an instruction calls."""
  return [
    (role, name.strip().lstrip('%'))
    for role, names in _CALLED.findall(line.rest)
    for name in names.strip('{}').split(',')
    if name.strip()
  ]


def _trip_count(
  line: _Instruction, computations: dict[str, list[_Instruction]]
) -> int | None:
  """How often the body of a `while` runs, if it can be known.

  XLA notes it on the loops that it understood. Otherwise a condition that
  is one comparison with one constant, which is how a scan counts.
  """
  if found := _TRIPS.search(line.rest):
    return int(found[1])
  condition = dict(_calls(line)).get('condition', '')
  lines = computations.get(condition, [])
  constants = [
    found[1]
    for i in lines
    if (found := _CONSTANT.match(f'{i.shape} {i.opcode}({i.rest}'))
  ]
  root = next((i for i in lines if i.is_root), None)
  counts_up = (
    root is not None
    and root.opcode == 'compare'
    and 'direction=LT' in root.rest
  )
  return int(constants[0]) if counts_up and len(constants) == 1 else None


def _bits(dtype: str) -> int:
  if dtype == 'pred':
    return 8
  found = _BITS.match(dtype)
  return int(found[1]) if found else 0

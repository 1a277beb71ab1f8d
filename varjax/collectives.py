"""What devices say to each other, read from a compiled program.

`parse` finds every collective of `jitted.lower(...).compile().as_text()`,
for CPU, GPU or TPU: its kind, the arrays, the groups of devices, and how
often one call of the program runs it. Sharding tests count them; planning
for a pod turns them into time on the wires.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import re

from varjax import hlo, replica_groups
from varjax.hlo import Array
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

_PAIRS = re.compile(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}')


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


def parse(text: str) -> list[Collective]:
  """Every collective that a call of the program runs, in program order.

  Args:
    text: of an optimised module.

  Raises:
    ConfigError: the text has no entry computation, or its replica groups
      are in a notation that is not known.
  """
  module = hlo.parse(text)
  found = []
  for visit in module.walk(fusions=True):
    kind = visit.line.opcode.removesuffix('-start')
    siblings = module.computations[visit.computation]
    if kind in KINDS and not is_continued(visit.line, siblings):
      found.append(_collective(kind, visit, module))
  return found


def is_continued(
  line: hlo.Instruction, siblings: list[hlo.Instruction]
) -> bool:
  """Whether a collective was started in another computation.

  The TPU compiler cuts a collective into pieces that run inside of the
  fusions beside it, and writes the instruction down in each of them.
  """
  return 'chain_id=' in line.rest and not any(
    'AsyncCollectiveStart' in other.rest for other in siblings
  )


def _collective(kind: str, visit: hlo.Visit, module: hlo.Module) -> Collective:
  line = visit.line
  shape = line.shape
  if line.opcode in ('all-gather-start', 'collective-permute-start'):
    # (operands, results, contexts...)
    shape = hlo.elements(shape)[1]
  if kind == 'all-reduce' and visit.computation.startswith(
    'all-reduce-scatter'
  ):
    # How the TPU compiler fuses a reduce-scatter: the slice is the root.
    kind = 'reduce-scatter'
    siblings = module.computations[visit.computation]
    shape = next(i.shape for i in siblings if i.is_root)
  name = re.search(r'op_name="([^"]*)"', line.rest)
  return Collective(
    kind=kind,
    name=line.name,
    arrays=hlo.arrays(shape),
    groups=_groups(kind, line.rest, module.devices),
    trips=visit.trips,
    bounded=visit.bounded,
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

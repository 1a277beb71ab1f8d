"""Bytes through HBM of one update, from the compiled program.

XLA's own cost analysis counts the body of a loop once, and a scan over the
blocks is a loop. Here every instruction that runs reads its operands and
writes its results, every trip counted. What the compiler placed in on-chip
memory is free; a slice of a larger array counts as the slice. An upper
bound in two ways: a fused kernel may read less of an operand than all of
it, and nothing is known of caches. No JAX in here.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import re

from varjax import collectives, hlo

# Nothing is moved, or it is counted where the data is used.
_FREE = frozenset(
  {
    'parameter', 'constant', 'iota', 'tuple', 'get-tuple-element', 'bitcast',
    'while', 'conditional', 'call', 'after-all', 'opt-barrier',
    'partition-id', 'replica-id', 'async-update',
  }
)  # fmt: skip
_SLICES = ('dynamic-slice', 'slice', 'gather')
_TRITON = 'custom_call_target="__gpu$xla.gpu.triton"'  # A Pallas kernel.
# Kernels of ours that are given what all layers have and read some of it:
# such operands, and the axis of the result that says of how many layers.
_OF_LAYERS = {'few_rows': ((1, 3), 2), 'flash_cached': ((3, 4, 7, 8), None)}
_ALIASED = re.compile(r'\{(\d*)\}: \((\d+), \{\}\)')


@dataclasses.dataclass(frozen=True)
class Move:
  """An instruction that moves data, `trips` times; `bytes` in all."""

  line: hlo.Instruction
  trips: int
  bytes: float


def hbm_bytes(text: str) -> float:
  """Bytes that one device reads and writes in one call of a program.

  Args:
    text: of an optimised module.

  Raises:
    ConfigError: the text is not one.
  """
  return sum(move.bytes for move in moves(text))


def moves(text: str) -> Iterator[Move]:
  """What reads or writes memory in one call of a program.

  Args:
    text: of an optimised module.

  Raises:
    ConfigError: the text is not one.
  """
  module = hlo.parse(text)
  scopes = {
    name: _Scope.of(lines) for name, lines in module.computations.items()
  }
  for visit in module.walk():
    # The first half of an asynchronous pair has the operands and results.
    if visit.line.opcode in _FREE or visit.line.opcode.endswith('-done'):
      continue
    once = _moved(visit.line, scopes[visit.computation], scopes)
    yield Move(visit.line, visit.trips, visit.trips * once)


@dataclasses.dataclass(frozen=True)
class _Scope:
  """A computation: its instructions and their readers, by name."""

  lines: dict[str, hlo.Instruction]
  readers: dict[str, list[hlo.Instruction]]
  root: hlo.Instruction | None

  @classmethod
  def of(cls, lines: list[hlo.Instruction]) -> _Scope:
    readers: dict[str, list[hlo.Instruction]] = {}
    for line in lines:
      for operand in line.operands:
        readers.setdefault(operand, []).append(line)
    root = next((line for line in lines if line.is_root), None)
    return cls({line.name: line for line in lines}, readers, root)

  def source(self, name: str) -> hlo.Instruction | None:
    """The instruction of a name, or what it is another view of."""
    line = self.lines.get(name)
    while line is not None and line.opcode == 'bitcast':
      line = self.lines.get(line.operands[0])
    return line

  def users(self, name: str) -> list[hlo.Instruction]:
    """Who reads a value, or another view of it."""
    found = []
    for line in self.readers.get(name, []):
      found += self.users(line.name) if line.opcode == 'bitcast' else [line]
    return found


def _moved(
  line: hlo.Instruction, scope: _Scope, scopes: dict[str, _Scope]
) -> float:
  """Bytes of one execution."""
  if line.opcode == 'fusion-start':  # Shaped (operands, results, ...).
    shape = hlo.elements(line.shape)[1]
    line = dataclasses.replace(line, opcode='fusion', shape=shape)
  results = _in_hbm(line.arrays)
  operands = [
    _in_hbm(scope.lines[name].arrays) if name in scope.lines else 0
    for name in line.operands
  ]
  if line.opcode.endswith('-start') and line.shape.startswith('('):
    return _started(line, operands)
  if line.opcode in _SLICES:
    operands[:1] = [min(operands[0], _whole(line.arrays))]
  elif line.opcode == 'dynamic-update-slice':
    # In place: the update is read and written.
    return 2 * operands[1]
  elif line.opcode == 'fusion':
    inner = scopes[dict(line.calls)['calls']]
    for index, part in _partial_reads(inner, scopes).items():
      operands[index] = min(operands[index], part)
    results = _written(line, inner)
  elif line.opcode == 'custom-call' and 'AllocateBuffer' in line.rest:
    return 0.0
  elif line.opcode == 'custom-call' and _TRITON in line.rest:
    return _moved_by_kernel(line, scope, operands)
  return sum(operands) + results


def _moved_by_kernel(
  line: hlo.Instruction, scope: _Scope, operands: list[int]
) -> float:
  """Bytes of a kernel of ours.

  It may be handed one array several times, for each of its parts. And one
  array may be the result of several kernels, in the same memory: each fills
  in its parts, and what the others did is not read. The last one counts.
  Of a stack of layers a kernel reads its own.
  """
  continued = {place for _, place in _aliases(line)}
  operands = _of_some_layers(line, scope, operands)
  read = {
    source.name if (source := scope.source(name)) else name: size
    for place, (name, size) in enumerate(
      zip(line.operands, operands, strict=True)
    )
    if place not in continued
  }
  written = [
    array.bytes
    for index, array in enumerate(line.arrays)
    if array.space == 0 and not _is_continued(line, index, scope)
  ]
  return sum(read.values()) + sum(written)


def _of_some_layers(
  line: hlo.Instruction, scope: _Scope, operands: list[int]
) -> list[float]:
  """Bytes of operands, of all layers as far as the kernel reads them."""
  name = next((n for n in _OF_LAYERS if f'/{n}/pallas_call' in line.rest), '')
  stacks, axis = _OF_LAYERS.get(name, ((), None))
  read = 1 if axis is None else line.arrays[0].shape[axis]
  return [
    size * read / scope.lines[operand].arrays[0].shape[0]
    if place in stacks and operand in scope.lines
    else size
    for place, (operand, size) in enumerate(
      zip(line.operands, operands, strict=True)
    )
  ]


def _aliases(line: hlo.Instruction) -> list[tuple[int, int]]:
  """(result, operand) that share their memory."""
  text = line.rest.partition('output_to_operand_aliasing=')[2]
  found = _ALIASED.findall(text.partition('=')[0])
  return [(int(result or 0), int(place)) for result, place in found]


def _is_continued(line: hlo.Instruction, index: int, scope: _Scope) -> bool:
  """Whether another kernel of ours goes on writing a result."""
  names = [line.name]
  if len(line.arrays) > 1:
    names = [
      user.name
      for user in scope.users(line.name)
      if user.opcode == 'get-tuple-element' and f'index={index}' in user.rest
    ]
  return any(
    source is not None and source.name == name
    for name in names
    for user in scope.users(name)
    if _TRITON in user.rest
    for _, place in _aliases(user)
    for source in [scope.source(user.operands[place])]
  )


def _started(line: hlo.Instruction, operands: list[int]) -> float:
  """Bytes of an asynchronous operation, of which this is the first half.

  Its shape is (operands, results, ...), but (result, operand, ...) of a
  copy.
  """
  parts = hlo.elements(line.shape)
  result = hlo.arrays(parts[0 if line.opcode == 'copy-start' else 1])
  if line.opcode == 'slice-start':
    operands[:1] = [min(operands[0], _whole(result))]
  return sum(operands) + _in_hbm(result)


def _partial_reads(scope: _Scope, scopes: dict[str, _Scope]) -> dict[int, int]:
  """Bytes read of a fusion's parameters that it does not read whole.

  Those that are only sliced, and those that it only updates in place, also
  by fusions inside of it.
  """
  found = {}
  for line in scope.lines.values():
    if line.opcode != 'parameter':
      continue
    parts = [
      _partial_read(line, user, scope, scopes)
      for user in scope.users(line.name)
    ]
    if None not in parts:
      number = int(line.rest.partition(')')[0])
      found[number] = sum(part for part in parts if part is not None)
  return found


def _partial_read(
  line: hlo.Instruction,
  user: hlo.Instruction,
  scope: _Scope,
  scopes: dict[str, _Scope],
) -> int | None:
  """Bytes that one user reads of a parameter; None is all of it."""
  places = [
    place
    for place, name in enumerate(user.operands)
    if scope.source(name) is line
  ]
  if user.opcode in _SLICES and places == [0]:
    return _whole(user.arrays)
  if user.opcode == 'dynamic-update-slice' and places == [0]:
    return 0
  if user.opcode == 'tuple' or _is_piece(user, scope):
    return 0  # Handed on.
  if user.opcode == 'fusion':
    inner = _partial_reads(scopes[dict(user.calls)['calls']], scopes)
    if all(place in inner for place in places):
      return sum(inner[place] for place in places)
  return None


def _written(line: hlo.Instruction, scope: _Scope) -> int:
  """Bytes that a fusion writes; of an update in place, the update alone."""
  root = scope.root
  if root is None:
    return _in_hbm(line.arrays)
  if 'AsyncCollectiveStart' in root.rest:
    # The operand, the gathered array, and numbers.
    return _in_hbm(line.arrays[1:])
  names = root.operands if root.opcode == 'tuple' else [root.name]
  total = 0
  # A tuple's parts have their memory in the result's shape.
  for array, name in zip(line.arrays, names, strict=False):
    part = scope.source(name)
    if array.space or part is None:
      continue
    if part.opcode == 'parameter' or _is_piece(part, scope):
      continue  # Handed on.
    if part.opcode == 'dynamic-update-slice':
      total += _whole(scope.lines[part.operands[1]].arrays)
    else:
      total += array.bytes
  return total


def _is_piece(line: hlo.Instruction, scope: _Scope) -> bool:
  """Whether it continues or ends a collective that is counted elsewhere."""
  return 'AsyncCollectiveDone' in line.rest or collectives.is_continued(
    line, list(scope.lines.values())
  )


def _in_hbm(arrays: tuple[hlo.Array, ...]) -> int:
  return sum(array.bytes for array in arrays if array.space == 0)


def _whole(arrays: tuple[hlo.Array, ...]) -> int:
  return sum(array.bytes for array in arrays)

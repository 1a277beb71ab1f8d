"""The text of a compiled program: instructions, and how often they run.

`parse` reads `jitted.lower(...).compile().as_text()` for CPU, GPU or TPU;
`Module.walk` visits what one call of the program executes. Read by
`collectives` and `aot.traffic`. No JAX in here.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math
import re

from varjax import errors

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{\s*$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_OPCODE = re.compile(r'\s*([\w\-]+)\(')
_ARRAY = re.compile(
  r'\b(pred|token|[a-z]+\d+[a-z0-9]*)\[([\d,<=]*)\](?:\{([^}]*)\})?'
)
_CALLED = re.compile(
  r'\b(calls|to_apply|body|condition|branch_computations|true_computation|'
  r'false_computation|called_computations)='
  r'(\{[^}]*\}|%?[\w.\-]+)'
)
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"?(\d+)')
_CONSTANT = re.compile(r'[su]\d+\[\]\S* constant\((\d+)\)')
_BITS = re.compile(r'[a-z]+(\d+)')
_SPACE = re.compile(r'S\((\d+)\)')


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of HLO, as one device holds it.

  Attributes:
    dtype: as HLO names it.
    shape: without padding.
    space: memory that the layout puts it in; 0 is the device's main one,
      HBM on a TPU.
  """

  dtype: str
  shape: tuple[int, ...]
  space: int = dataclasses.field(default=0, compare=False)

  @property
  def bytes(self) -> int:
    """Bytes of its elements, without padding."""
    return math.ceil(math.prod(self.shape) * _bits(self.dtype) / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation; `rest` is operands and attributes."""

  name: str
  shape: str
  opcode: str
  rest: str
  is_root: bool

  @property
  def arrays(self) -> tuple[Array, ...]:
    """Of the result; several for a tuple."""
    return arrays(self.shape)

  @property
  def operands(self) -> list[str]:
    """Names of the instructions that it reads."""
    return re.findall(r'%([\w.\-]+)', self.rest[: _closing(self.rest)])

  @property
  def calls(self) -> list[tuple[str, str]]:
    """(role, computation) of what it calls."""
    return [
      (role, name.strip().lstrip('%'))
      for role, names in _CALLED.findall(self.rest)
      for name in names.strip('{}').split(',')
      if name.strip()
    ]


@dataclasses.dataclass(frozen=True)
class Visit:
  """An instruction in its place.

  Attributes:
    line: the instruction.
    computation: that it is in.
    trips: how often one call of the program runs it, loops multiplied.
    bounded: False when a loop around it has no known number of trips, which
      is then counted as 1.
  """

  line: Instruction
  computation: str
  trips: int
  bounded: bool


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program.

  Attributes:
    computations: instructions by computation.
    entry: the computation that a call runs.
    devices: that the program is for.
  """

  computations: dict[str, list[Instruction]]
  entry: str
  devices: int

  def walk(self, fusions: bool = False) -> Iterator[Visit]:
    """Every instruction that a call runs, in program order.

    Args:
      fusions: whether to look inside of fusions and asynchronous wrappers.
    """
    yield from self._walk(self.entry, 1, True, fusions)

  def _walk(
    self, name: str, trips: int, bounded: bool, fusions: bool
  ) -> Iterator[Visit]:
    for line in self.computations.get(name, []):
      yield Visit(line, name, trips, bounded)
      count: int | None = 1
      if line.opcode == 'while':
        count = self._trip_count(line)
      elif not fusions and line.opcode not in ('call', 'conditional'):
        continue
      for role, called in line.calls:
        if role == 'to_apply' and line.opcode != 'call':
          continue  # How a reduction adds two numbers.
        yield from self._walk(
          called,
          trips * (1 if count is None else count),
          bounded and count is not None,
          fusions,
        )

  def _trip_count(self, line: Instruction) -> int | None:
    """How often the body of a `while` runs, if it can be known.

    XLA notes it on the loops that it understood. Otherwise a condition that
    is one comparison with one constant, which is how a scan counts.
    """
    if found := _TRIPS.search(line.rest):
      return int(found[1])
    condition = dict(line.calls).get('condition', '')
    lines = self.computations.get(condition, [])
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


def parse(text: str) -> Module:
  """Reads the text of an optimised module.

  Raises:
    ConfigError: the text has no entry computation.
  """
  computations: dict[str, list[Instruction]] = {}
  current: list[Instruction] | None = None
  entry = None
  for line in text.splitlines():
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
  head = text[: text.find('\n')]
  found = re.search(r'num_partitions=(\d+)', head)
  replicas = re.search(r'replica_count=(\d+)', head)
  devices = int(found[1]) if found else int(replicas[1]) if replicas else 1
  return Module(computations, entry, devices)


def arrays(shape: str) -> tuple[Array, ...]:
  """The arrays of a result shape, tuples flattened."""
  return tuple(
    Array(
      dtype,
      tuple(int(d.lstrip('<=')) for d in dims.split(',') if d),
      int(space[1]) if (space := _SPACE.search(layout or '')) else 0,
    )
    for dtype, dims, layout in _ARRAY.findall(shape)
    if dtype != 'token'
  )


def elements(shape: str) -> list[str]:
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


def _instruction(found: re.Match[str]) -> Instruction:
  text = found[3]
  end = _shape_end(text)
  opcode = _OPCODE.match(text, end)
  return Instruction(
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


def _closing(text: str) -> int:
  """Where the bracket that was opened before `text` closes."""
  depth = 1
  for place, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if depth == 0:
      return place
  return len(text)


def _bits(dtype: str) -> int:
  if dtype == 'pred':
    return 8
  found = _BITS.match(dtype)
  return int(found[1]) if found else 0

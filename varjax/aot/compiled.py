"""What the compiler alone knows about a program on a slice.

Facts, not estimates; kept by content, since each costs minutes. No JAX in
here.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from varjax import errors
from varjax.aot.parts import Part

SCHEMA = 3


@dataclasses.dataclass(frozen=True)
class Memory:
  """HBM of one device in bytes.

  Attributes:
    arguments, outputs: state, frozen weights and batch; state and metrics.
      Of a sampler or a tokenizer: weights that it reads and inputs; results.
    alias: of the outputs that reuse donated arguments.
    temp: everything that lives inside the step.
    code: the program itself.
    peak: the most that is held at one time.
  """

  arguments: int
  outputs: int
  alias: int
  temp: int
  code: int
  peak: int


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Collectives of one kind, in one call.

  Attributes:
    count: executions, every trip of a loop counted.
    bytes: of their results on one device.
    wire_bytes: that one device sends, with ring algorithms.
  """

  count: int
  bytes: int
  wire_bytes: float


@dataclasses.dataclass(frozen=True)
class Compiled:
  """One program on one slice.

  Attributes:
    fits: whether the compiler accepted it.
    used_bytes: that one device needs, also where it does not fit.
    partial: whether `used_bytes` leaves out the arguments.
    limit_bytes: that one device may use; None where nobody said.
    memory: None where it does not fit.
    collectives: by kind; empty where it does not fit.
    hbm_bytes: that one device moves in one call; 0 where it does not fit.
    parts: of the model, by the bytes they move; empty where it does not fit.
    bounded: False where a loop's trips are not known and count as one.
    refusal: what the compiler said, '' where it fits.
    seconds: wall time of compiling.
    versions: of jax, jaxlib and what compiles.
  """

  fits: bool
  used_bytes: int
  partial: bool
  limit_bytes: int | None
  memory: Memory | None
  collectives: dict[str, Traffic]
  hbm_bytes: float
  parts: tuple[Part, ...]
  bounded: bool
  refusal: str
  seconds: float
  versions: dict[str, str]

  @property
  def wire_bytes(self) -> float:
    """Bytes that one device sends in one call."""
    return sum(one.wire_bytes for one in self.collectives.values())

  @property
  def launches(self) -> int:
    """Kernels of one call, every trip of a loop counted."""
    return sum(part.launches for part in self.parts)


def to_json(compiled: Compiled) -> dict[str, Any]:
  """JSON values that `from_json` reads."""
  return {'schema': SCHEMA, **dataclasses.asdict(compiled)}


def from_json(values: Mapping[str, Any], where: str) -> Compiled:
  """The inverse of `to_json`.

  Args:
    values: what `to_json` returned.
    where: the file, for the message.

  Raises:
    RecordError: something else, or of another schema.
  """
  try:
    if values['schema'] != SCHEMA:
      raise ValueError(f'schema {values["schema"]}')
    fields = {f.name: values[f.name] for f in dataclasses.fields(Compiled)}
    if fields['memory'] is not None:
      fields['memory'] = Memory(**fields['memory'])
    fields['collectives'] = {
      kind: Traffic(**one) for kind, one in fields['collectives'].items()
    }
    fields['parts'] = tuple(Part(**one) for one in fields['parts'])
    return Compiled(**fields)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise errors.RecordError(
      f'{where}: not a compiled program of schema {SCHEMA} ({error})'
    ) from error

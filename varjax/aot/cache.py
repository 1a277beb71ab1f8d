"""What the compiler said, kept by content: a program is compiled once.

Two keys. The first is of the run, the code, the slice and the compiler's
versions: a plan finds a result by it without JAX. The second is of the
lowered program itself, so that an edit which leaves the program alone costs
seconds of lowering and no compile.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from varjax import errors, identity, memory
from varjax import spec as specs
from varjax.aot import compiled as facts
from varjax.aot import target
from varjax.aot.compiled import Compiled
from varjax.compilation import cache_directory
from varjax.topology import Topology
from varjax.workdir import write_json

# Sources that shape the program, beyond those that a run's id covers.
_CODE = ('sharding.py', 'collectives.py', 'replica_groups.py',
         'aot/abstract.py', 'aot/compiler.py')  # fmt: skip


def find(run: specs.RunSpec, slice_: Topology) -> Compiled | None:
  """The result for a run, None when the compiler has not been asked.

  Raises:
    ConfigError: the mesh does not fit the slice.
  """
  values = _read(directory() / 'runs' / f'{run_key(run, slice_)}.json')
  return find_program(str(values.get('program', '')))


def find_program(program: str) -> Compiled | None:
  """The result for a lowered program, by its key."""
  file = directory() / 'programs' / f'{program}.json'
  values = _read(file)
  try:
    return facts.from_json(values, str(file)) if values else None
  except errors.RecordError:
    return None  # Of an older schema; it can be made again.


def save(
  run: specs.RunSpec, slice_: Topology, program: str, result: Compiled
) -> None:
  """Keeps a result under both keys."""
  for folder, name, content in (
    ('programs', program, facts.to_json(result)),
    ('runs', run_key(run, slice_), {'program': program}),
  ):
    file = directory() / folder / f'{name}.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)


def directory() -> pathlib.Path:
  """Where results are kept; VARJAX_CACHE moves it."""
  return cache_directory() / 'aot'


def run_key(run: specs.RunSpec, slice_: Topology) -> str:
  """Hash of a run's shapes, the code, the slice and the versions.

  Numbers that are constants of the program, such as the learning rate or
  the length of the run, change no shape and are left out.

  Raises:
    ConfigError: the mesh does not fit the slice.
  """
  root = pathlib.Path(identity.__file__).parent
  own = [(root / name).read_text(encoding='utf-8') for name in _CODE]
  content = {
    'run': _shapes(run, slice_),
    'topology': str(slice_),
    'code': [identity.code_version(), identity.digest(own)],
    'versions': target.versions(),
  }
  return identity.digest(content)[:24]


def program_key(text: str, slice_: Topology, order: list[int]) -> str:
  """Hash of a lowered program, the slice and the versions.

  Args:
    text: StableHLO.
    slice_: what it is compiled for.
    order: device numbers of the mesh, which the text does not hold.
  """
  content = {
    'text': text,
    'topology': str(slice_),
    'order': order,
    'versions': target.versions(),
  }
  return identity.digest(content)[:24]


def _read(file: pathlib.Path) -> dict[str, Any]:
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return {}  # Absent or torn: it can be made again.
  return values if isinstance(values, dict) else {}


def _shapes(run: specs.RunSpec, slice_: Topology) -> dict[str, Any]:
  optim = run.optim
  return {
    'task': run.task,
    'input': run.input,
    'batch_size': run.batch_size,
    'resolution': run.data.resolution,
    'tokenizer': dataclasses.asdict(run.tokenizer),
    'reconstruct': dataclasses.asdict(run.reconstruct),
    'order': dataclasses.asdict(run.order),
    'model': dataclasses.asdict(run.model),
    'progressive': dataclasses.asdict(run.progressive),
    'mesh': memory.mesh_shape(run.mesh, slice_.count),
    'accumulate': optim.accumulate,
    'moments_dtype': optim.moments_dtype,
    'clips': optim.clip_norm > 0,
    'schedule': optim.schedule,
  }

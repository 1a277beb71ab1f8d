"""What the compiler said, kept by content: a program is compiled once.

Two keys. The first is of the request, the code, the slice and the compiler's
versions: a plan finds a result by it without JAX. The second is of the
lowered program itself and the code that reads it, so that an edit which
leaves the program alone costs seconds of lowering and no compile.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from varjax import errors, identity, memory
from varjax.aot import compiled as facts
from varjax.aot import target
from varjax.aot.compiled import Compiled
from varjax.aot.request import Request
from varjax.compilation import cache_directory
from varjax.topology import Topology
from varjax.workdir import write_json

# Sources that shape the program, beyond those that a run's id covers, and
# those that read facts from it.
_LOWERING = ('sharding.py', 'aot/abstract.py', 'aot/programs.py')
_READING = ('hlo.py', 'collectives.py', 'replica_groups.py',
            'aot/refusal.py', 'aot/traffic.py', 'aot/compiler.py',
            'aot/cuda.py', 'aot/parts.py')  # fmt: skip
# Names, places, and numbers that are arguments of an update.
_SHAPES_NOTHING = (
  'name', 'role', 'seed', 'total', 'eval_batch_size', 'tokenizer_dir',
  'codes_dir', 'init_from', 'sample', 'evaluate', 'checkpoint',
  'keep_checkpoints', 'log', 'data.name', 'data.data_dir',
  'data.train_split', 'data.val_split', 'data.resize_ratio', 'data.flip',
  'data.num_classes', 'optim.lr', 'optim.lr_reference_batch',
  'optim.warmup', 'optim.warmup_start', 'optim.final', 'optim.beta1',
  'optim.beta2', 'optim.eps', 'optim.weight_decay',
  'optim.weight_decay_end', 'optim.clip_norm',
)  # fmt: skip


def find(request: Request, slice_: Topology) -> Compiled | None:
  """The result for a request, None when the compiler has not been asked.

  Raises:
    ConfigError: the mesh does not fit the slice.
  """
  values = _read(directory() / 'runs' / f'{request_key(request, slice_)}.json')
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
  request: Request, slice_: Topology, program: str, result: Compiled
) -> None:
  """Keeps a result under both keys."""
  for folder, name, content in (
    ('programs', program, facts.to_json(result)),
    ('runs', request_key(request, slice_), {'program': program}),
  ):
    file = directory() / folder / f'{name}.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)


def directory() -> pathlib.Path:
  """Where results are kept; VARJAX_CACHE moves it."""
  return cache_directory() / 'aot'


def request_key(request: Request, slice_: Topology) -> str:
  """Hash of a program's shapes, the code, the slice and the versions.

  The learning rate, the length of the run and the like are arguments of an
  update: they change neither memory nor collectives and are left out.

  Raises:
    ConfigError: the mesh does not fit the slice.
  """
  content = {
    'program': request.program,
    'run': _shapes(request, slice_),
    'topology': str(slice_),
    'code': [identity.code_version(), _digest(_LOWERING + _READING)],
    **_compiler(slice_),
  }
  return identity.digest(content)[:24]


def program_key(
  program: str,
  text: str,
  slice_: Topology,
  order: list[int],
  options: dict[str, str | bool],
) -> str:
  """Hash of a lowered program, the slice and the versions.

  Args:
    program: of `request.PROGRAMS`, which decides how it is read.
    text: StableHLO.
    slice_: what it is compiled for.
    order: device numbers of the mesh, which the text does not hold.
    options: of the compiler.
  """
  content = {
    'program': program,
    'text': text,
    'topology': str(slice_),
    'order': order,
    'options': options,
    'code': _digest(_READING),
    **_compiler(slice_),
  }
  return identity.digest(content)[:24]


def _compiler(slice_: Topology) -> dict[str, Any]:
  """What compiles, and the limit that it is not told of."""
  found: dict[str, Any] = {'versions': target.versions(slice_)}
  if limit := target.compiler_of(slice_).usable_bytes(slice_):
    found['limit'] = limit
  return found


def _digest(names: tuple[str, ...]) -> str:
  """Hash of sources of the package."""
  root = pathlib.Path(identity.__file__).parent
  return identity.digest(
    [(root / name).read_text(encoding='utf-8') for name in names]
  )


def _read(file: pathlib.Path) -> dict[str, Any]:
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return {}  # Absent or torn: it can be made again.
  return values if isinstance(values, dict) else {}


def _shapes(request: Request, slice_: Topology) -> dict[str, Any]:
  """The request without what is known to shape no program."""
  run = request.run
  if not request.is_training:
    found: dict[str, Any] = {
      'images': request.batch,
      'precision': dataclasses.asdict(request.precision),
      'tokenizer': dataclasses.asdict(run.tokenizer),
      'resolution': run.data.resolution,
    }
    if request.program == 'sample':
      found |= {
        name: dataclasses.asdict(getattr(run, name))
        for name in ('model', 'order', 'sample')
      }
    return found
  values = dataclasses.asdict(run)
  for name in _SHAPES_NOTHING:
    section, _, key = name.rpartition('.')
    del (values[section] if section else values)[key]
  values['mesh'] = memory.mesh_shape(run.mesh, slice_.count)
  values['clips'] = run.optim.clip_norm > 0
  return values

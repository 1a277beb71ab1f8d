"""What a failing device, disk or peer means, in one sentence.

Wrapped around the train loop and the evaluation. XLA says
RESOURCE_EXHAUSTED and a page of allocations; a person wants to know what to
change. Defects of varjax pass through with their traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re

import jax

from varjax import errors, storage
from varjax import spec as specs

MEMORY_PROFILE = 'memory.prof'
_SIZE = re.compile(
  r'allocat\w*\s+(?:of\s+)?(\d+(?:\.\d+)?\s?(?:[KMGT]i?B|bytes)?)'
)


@contextlib.contextmanager
def failures(
  run: specs.RunSpec, folder: str | os.PathLike[str]
) -> Iterator[None]:
  """Turns errors of the machine into sentences.

  Args:
    run: names the keys that would help.
    folder: of the run, where a memory profile is left.

  Raises:
    DoesNotFit, PeerLost, NotWritten: instead of what XLA or the operating
      system raised.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    text = str(error)
    if 'RESOURCE_EXHAUSTED' in text or 'Out of memory' in text:
      profile = _write_profile(pathlib.Path(folder))
      raise errors.DoesNotFit(_no_room(text, run, profile)) from error
    if jax.process_count() > 1:
      raise errors.PeerLost(
        f'process {jax.process_index()} of {jax.process_count()}: another '
        f'process is gone ({_first_line(text)}); start all of them again to '
        'resume from the last checkpoint'
      ) from error
    raise
  except OSError as error:
    found = storage.no_room(error, str(folder))
    if found is None:
      raise
    raise found from error


def remedies(run: specs.RunSpec) -> list[str]:
  """What would lower the memory of a run, cheapest first."""
  found = []
  if run.task == 'generate':
    stronger = {'none': 'light', 'light': 'slim', 'dots': 'slim'}
    if run.model.remat != 'full':
      found.append(
        f'--config.model.remat={stronger.get(run.model.remat, "full")}'
      )
  if run.optim.accumulate < run.batch_size:
    found.append(f'--config.optim.accumulate={2 * run.optim.accumulate}')
  if run.mesh.fsdp != -1:
    found.append('--config.mesh.fsdp=-1 --config.mesh.data=1 (more devices)')
  found.append(f'--config.batch_size={max(run.batch_size // 2, 1)}')
  return found


def _no_room(text: str, run: specs.RunSpec, profile: str) -> str:
  size = _SIZE.search(text)
  wanted = f', which was asked for {size[1].strip()} more' if size else ''
  return (
    f'out of memory on a device{wanted}, with batch_size={run.batch_size}, '
    f'optim.accumulate={run.optim.accumulate}, model.remat='
    f'{run.model.remat}, mesh.fsdp={run.mesh.fsdp}; try '
    f'{", or ".join(remedies(run))}{profile}'
  )


def _write_profile(folder: pathlib.Path) -> str:
  """Leaves what was allocated, for pprof; a note about it for the message."""
  path = folder / MEMORY_PROFILE
  if jax.process_count() > 1:
    path = path.with_suffix(f'.{jax.process_index()}.prof')
  try:
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jax.profiler.device_memory_profile())
  except (OSError, RuntimeError) as error:
    return f'; no memory profile could be written ({_first_line(str(error))})'
  return f'; what was allocated is in {path} (pprof)'


def _first_line(text: str) -> str:
  return (text.strip().splitlines() or [''])[0][:200]

"""A code cache that is being written: who writes, and what is whole.

Several processes may share the folder of a split. Each notes the shards that
it has finished, in a manifest of its own; at the end one of them makes the
manifest of all. After a kill the notes say what need not be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import fcntl
import pathlib
import shutil

from varjax import errors
from varjax.data import codes as code_cache
from varjax.data import manifest as manifests
from varjax.data import shards
from varjax.data.manifest import Manifest, Shard

_NOTES = '.process-'  # and a number: what one of several has finished


@dataclasses.dataclass(frozen=True)
class Share:
  """Which part of the work is this process's.

  Shards that are missing are dealt out in turn, so that an encode may be
  finished by another number of processes than began it.

  Attributes:
    index, count: number of this process, and of all.
    barrier: returns when all processes have called it with that name.
  """

  index: int = 0
  count: int = 1
  barrier: Callable[[str], None] = lambda _: None


@contextlib.contextmanager
def lock(folder: pathlib.Path, share: Share) -> Iterator[None]:
  """Keeps other encodes, of the same share, out of the folder of a split.

  Raises:
    DataError: one is at work there.
  """
  name = f'.lock{share.index or ""}'
  with (folder / name).open('w') as stream:
    try:
      fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise errors.DataError(
        f'{folder}: another process is encoding into this folder; wait for it '
        'or choose another'
      ) from error
    yield


def resume(folder: pathlib.Path, plan: Manifest) -> list[Shard]:
  """The whole shards of an earlier run of the same plan, in order.

  Raises:
    DataError: the folder holds other codes.
  """
  found: dict[str, Shard] = {}
  for notes in _all_notes(folder):
    for shard in _whole_shards(folder, notes, plan):
      found[shard.file] = shard
  return sorted(found.values(), key=lambda shard: (shard.view, shard.first))


def notes_of(folder: pathlib.Path, share: Share) -> pathlib.Path:
  """Where a process keeps its manifest: in the folder itself if alone."""
  if share.count == 1:
    return folder
  notes = folder / f'{_NOTES}{share.index}'
  notes.mkdir(exist_ok=True)
  return notes


def _all_notes(folder: pathlib.Path) -> list[pathlib.Path]:
  """Folders with a manifest: the split's, and one of each process."""
  places = [folder, *sorted(folder.glob(f'{_NOTES}*'))]
  return [notes for notes in places if (notes / manifests.FILE).exists()]


def noted(folder: pathlib.Path) -> list[Shard]:
  """The shards that were ever finished, also those that are lost."""
  loaded = [manifests.load(notes) for notes in _all_notes(folder)]
  return [shard for manifest in loaded for shard in manifest.shards]


def _whole_shards(
  folder: pathlib.Path, notes: pathlib.Path, plan: Manifest
) -> list[Shard]:
  stored = manifests.load(notes)
  for field in dataclasses.fields(Manifest):
    old, new = getattr(stored, field.name), getattr(plan, field.name)
    if field.name not in ('shards', 'codes_id') and old != new:
      raise errors.DataError(
        f'{notes / manifests.FILE}: {field.name} is {old!r}, but these codes '
        f'would have {new!r}; encode into another folder or delete this one'
      )
  broken = code_cache.verify(folder, stored).broken
  return [shard for shard in stored.shards if shard.file not in broken]


def merge(folder: pathlib.Path, plan: Manifest, share: Share) -> Manifest:
  """One manifest of what all processes have noted."""
  share.barrier('encode_done')
  if share.index == 0:
    manifests.save(plan.with_shards(tuple(resume(folder, plan))), folder)
    for notes in folder.glob(f'{_NOTES}*'):
      shutil.rmtree(notes)
  share.barrier('encode_merged')
  return manifests.load(folder)


def missing(
  plan: Manifest, finished: set[str], suffix: str
) -> list[tuple[int, int]]:
  """(view, first example) of the shards that are to be written."""
  return [
    (view, start)
    for view in range(plan.views)
    for start in range(0, plan.examples, plan.shard_images)
    if shards.file_name(plan, view, start, suffix) not in finished
  ]

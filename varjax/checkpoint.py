"""Checkpoints: the state of a run, its place in the data, and its run id.

Between the train loop and the disk, on orbax. A save copies the state to
the host and returns; a thread writes it, and the step exists only once it
is complete, so a kill at any moment leaves the previous step. Everything
that reads weights (tokenizers, samplers) goes through `load_params`.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
import pathlib
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from varjax import checksum, errors
from varjax.types import PyTree

FOLDER = 'checkpoints'
# Steps that cannot be read are moved here, never deleted.
CORRUPT_FOLDER = 'checkpoints_corrupt'


class Restored(NamedTuple):
  """What `Checkpoints.restore` found.

  Attributes:
    step: updates made.
    state: arrays with the shardings that were asked for.
    data_state: where the run was in its input.
    meta: as saved.
  """

  step: int
  state: PyTree
  data_state: str
  meta: dict[str, Any]


class Checkpoints:
  """The checkpoints of one run, in `workdir`/checkpoints."""

  def __init__(
    self, workdir: str | os.PathLike[str], run_id: str, *, keep: int = 2
  ):
    """Opens, or creates, the folder; removes what a kill left half written.

    Args:
      workdir: of the run.
      run_id: of the run; checkpoints of another one are refused.
      keep: how many steps to keep.
    """
    self._workdir = pathlib.Path(workdir).absolute()
    self._run_id = run_id
    self._manager = _open(
      self._workdir / FOLDER,
      max_to_keep=keep,
      cleanup_tmp_directories=True,
      enable_async_checkpointing=True,
    )

  def save(
    self,
    step: int,
    state: PyTree,
    data_state: str = '',
    meta: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts saving, once earlier saves are on disk; a saved step is kept.

    The arrays of `state` may be donated as soon as this returns.

    Args:
      step: updates made.
      state: unboxed arrays.
      data_state: place in the input, the same on every process.
      meta: anything JSON.

    Raises:
      NotWritten: this save, or the one before, could not be written.
    """
    if step in self._manager.all_steps():
      return
    header = {
      'run_id': self._run_id,
      'step': step,
      'data_state': data_state,
      'fingerprints': checksum.fingerprints(state),
      'meta': dict(meta or {}),
    }
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(header)
        ),
        force=True,
      )
    except Exception as error:
      raise self._not_written(error) from error

  def wait(self) -> None:
    """Returns when every save is complete on disk.

    Raises:
      NotWritten: a save could not be written.
    """
    try:
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    except Exception as error:
      raise self._not_written(error) from error

  def close(self) -> None:
    """Waits, and frees the threads."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
    """Closes; but after an error no process waits for another one."""
    if error is None or jax.process_count() == 1:
      self.close()

  def latest_step(self) -> int | None:
    """The last complete step, or None."""
    return self._manager.latest_step()

  def restore(self, abstract: PyTree) -> Restored | None:
    """Reads the newest step that can be read.

    A step that cannot be read is reported and moved to `CORRUPT_FOLDER`
    once an older one has been restored in its place.

    Args:
      abstract: ShapeDtypeStructs with shardings, as `sharding.
        abstract_sharded` makes them; the mesh may differ from that of the
        run that saved.

    Returns:
      What was saved, or None when nothing ever was.

    Raises:
      CheckpointError: of another run; or steps exist and none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    failed: dict[int, str] = {}
    for step in steps:
      restored, reason = self._try(step, abstract)
      if restored is None:
        failed[step] = reason
        continue
      self._set_aside(failed, step)
      return restored
    if failed:
      newest = steps[0]
      raise errors.CheckpointError(
        f'{self._path(newest)}: none of the {len(failed)} checkpoints can be '
        f'read ({failed[newest]}); remove the folder to start again'
      )
    return None

  def _try(self, step: int, abstract: PyTree) -> tuple[Restored | None, str]:
    """The step, or why it cannot be read; all processes agree."""
    restored, header, reason = None, {}, 'unreadable on another process'
    try:
      restored, header = self._read(step, abstract)
    except errors.CheckpointError:
      raise
    # Damage shows itself as many types: OSError, ValueError, KeyError, json
    # and tensorstore errors.
    except Exception as error:
      reason = _sentence(error)
    if not _all_processes(restored is not None) or restored is None:
      return None, reason
    # Sums over all processes, so only once every one of them has its part.
    damaged = _damaged(restored.state, header)
    if damaged:
      return None, f'the content of {damaged} does not match its checksum'
    return restored, ''

  def _read(self, step: int, abstract: PyTree) -> tuple[Restored, Any]:
    header = self._manager.restore(
      step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
    )['meta']
    if header['run_id'] != self._run_id:
      raise errors.CheckpointError(
        f'{self._path(step)}: belongs to run {header["run_id"]}, not to '
        f'{self._run_id}; use another workdir'
      )
    state = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
          abstract,
          restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        )
      ),
    )['state']
    return Restored(step, state, header['data_state'], header['meta']), header

  def _set_aside(self, failed: Mapping[int, str], step: int) -> None:
    if not failed:
      return
    if jax.process_index() == 0:
      for bad, reason in failed.items():
        print(
          f'checkpoint {self._path(bad)} cannot be read ({reason}); '
          f'continuing from step {step}'
        )
        _move_aside(self._path(bad), self._workdir / CORRUPT_FOLDER)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('varjax_corrupt_checkpoints')
    self._manager.reload()

  def _path(self, step: int) -> pathlib.Path:
    return self._workdir / FOLDER / str(step)

  def _not_written(self, error: Exception) -> errors.NotWritten:
    return errors.NotWritten(
      f'{self._workdir / FOLDER}: a checkpoint could not be written '
      f'({_sentence(error)}); make room and run the same command again, '
      'which resumes from the last whole one'
    )


def latest_step(workdir: str | os.PathLike[str]) -> int | None:
  """The last complete step in a workdir, or None; touches nothing."""
  folder = pathlib.Path(workdir).absolute() / FOLDER
  if not folder.is_dir():
    return None
  return max(ocp.utils.checkpoint_steps(folder), default=None)


def content(workdir: str | os.PathLike[str], item: str) -> dict[str, int]:
  """Fingerprints of one entry of the newest checkpoint, by leaf.

  Reads the header alone, not the weights.

  Raises:
    CheckpointError: there is no checkpoint, or it cannot be read.
  """
  step = latest_step(workdir)
  folder = pathlib.Path(workdir).absolute() / FOLDER
  if step is None:
    raise errors.CheckpointError(f'{folder}: holds no finished checkpoint')
  manager = _open(folder, create=False, save_root_metadata=False)
  try:
    header = manager.restore(
      step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
    )['meta']
    found = header['fingerprints']
  except Exception as error:
    raise errors.CheckpointError(
      f'{folder / str(step)}: cannot be read ({_sentence(error)})'
    ) from error
  finally:
    manager.close()
  return {k: v for k, v in found.items() if k.partition('/')[0] == item}


def weights_entry(workdir: str | os.PathLike[str]) -> str:
  """The entry of the newest checkpoint that is to be used.

  'ema' where the run keeps an average of its weights, else 'params'. Reads
  the header alone.

  Raises:
    CheckpointError: there is no checkpoint, or it cannot be read.
  """
  return 'ema' if content(workdir, 'ema') else 'params'


def load_weights(workdir: str | os.PathLike[str]) -> PyTree:
  """The weights to sample from, evaluate or export, as NumPy arrays.

  Raises:
    CheckpointError: there is no checkpoint, or it cannot be read.
  """
  entry = weights_entry(workdir)
  return load_params(workdir, (entry,))[entry]


def load_params(
  workdir: str | os.PathLike[str], items: tuple[str, ...] = ('params', 'state')
) -> dict[str, PyTree]:
  """Some entries of the newest checkpoint, as NumPy arrays.

  Reads nothing else (not the optimiser), on any number of devices, and is
  safe while the run that owns `workdir` goes on saving.

  Args:
    workdir: of a run.
    items: top-level entries of the saved state.

  Returns:
    {item: tree of NumPy arrays}, plain nested dictionaries.

  Raises:
    CheckpointError: there is no checkpoint, or it cannot be read.
  """
  step = latest_step(workdir)
  folder = pathlib.Path(workdir).absolute() / FOLDER
  if step is None:
    raise errors.CheckpointError(f'{folder}: holds no finished checkpoint')
  path = folder / str(step)
  manager = _open(folder, create=False, save_root_metadata=False)
  try:
    saved = manager.item_metadata(step)['state'].tree
    missing = [item for item in items if item not in saved]
    if missing:
      raise errors.CheckpointError(
        f'{path}: has no entry {missing[0]!r}; it has {", ".join(saved)}'
      )
    wanted = {item: saved[item] for item in items}
    found = manager.restore(
      step,
      args=ocp.args.Composite(
        meta=ocp.args.JsonRestore(),
        state=ocp.args.PyTreeRestore(
          wanted,
          restore_args=jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted
          ),
          partial_restore=True,
        ),
      ),
    )
    damaged = _damaged(found['state'], found['meta'])
    if damaged:
      raise errors.CheckpointError(
        f'{path}: the content of {damaged} does not match its checksum'
      )
    return found['state']
  except errors.CheckpointError:
    raise
  except Exception as error:
    raise errors.CheckpointError(
      f'{path}: cannot be read ({_sentence(error)})'
    ) from error
  finally:
    manager.close()


def _open(folder: pathlib.Path, **options: Any) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    folder,
    item_handlers={
      'state': ocp.PyTreeCheckpointHandler(),
      'meta': ocp.JsonCheckpointHandler(),
    },
    options=ocp.CheckpointManagerOptions(**options),
  )


def _damaged(tree: PyTree, header: Mapping[str, Any]) -> str:
  """The first leaf that is not what was saved, or ''."""
  saved = header['fingerprints']
  for name, value in checksum.fingerprints(tree).items():
    if saved.get(name) != value:
      return name
  return ''


def _all_processes(ok: bool) -> bool:
  if jax.process_count() == 1:
    return ok
  return bool(multihost_utils.process_allgather(np.array(ok)).all())


def _move_aside(path: pathlib.Path, folder: pathlib.Path) -> None:
  folder.mkdir(exist_ok=True)
  target = folder / path.name
  number = 1
  while target.exists():
    target = folder / f'{path.name}.{number}'
    number += 1
  os.replace(path, target)


def _sentence(error: BaseException) -> str:
  lines = str(error).strip().splitlines()
  return f'{type(error).__name__}: {lines[0][:200] if lines else ""}'

"""Writes the emoji dataset into a cache on first use."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil

from varjax import errors


def cache_dir(data_dir: str = '') -> pathlib.Path:
  """Where prepared data goes.

  Args:
    data_dir: `DataSpec.data_dir`; wins when it is not empty.

  Returns:
    `data_dir`, else the environment variable VARJAX_CACHE, else
    `~/.cache/varjax`.
  """
  chosen = data_dir or os.environ.get('VARJAX_CACHE') or '~/.cache/varjax'
  return pathlib.Path(chosen).expanduser()


def prepare(root: pathlib.Path) -> pathlib.Path:
  """Prepares the dataset below `root` unless it is there.

  Safe against other processes (a file lock) and against being killed (tfds
  writes to a folder of another name and renames it).

  Returns:
    The folder that `tfds.builder_from_directory` reads.

  Raises:
    DataError: `root` cannot be written.
  """
  # tfds takes a second to import, and reading code caches does not need it.
  from varjax.data.emoji import emoji_dataset_builder

  version = str(emoji_dataset_builder.Builder.VERSION)
  folder = root / 'emoji' / version
  if _complete(folder):
    return folder
  try:
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root / '.emoji.lock'):
      if not _complete(folder):
        # What a killed process left, whole or half.
        for left in root.glob(f'emoji/incomplete.*_{version}'):
          shutil.rmtree(left)
        shutil.rmtree(folder, ignore_errors=True)
        builder = emoji_dataset_builder.Builder(
          data_dir=str(root), file_format='array_record'
        )
        with _quiet():
          builder.download_and_prepare()
  except OSError as error:
    raise errors.DataError(
      f'{root}: the emoji dataset cannot be prepared here '
      f'({error.strerror or error}); set data_dir or VARJAX_CACHE to a '
      'folder that can be written'
    ) from error
  return folder


def _complete(folder: pathlib.Path) -> bool:
  return (folder / 'dataset_info.json').is_file()


@contextlib.contextmanager
def _lock(path: pathlib.Path):
  with path.open('w') as stream:
    fcntl.flock(stream, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def _quiet():
  """Without the progress bars and notices of tfds."""
  import tensorflow_datasets as tfds

  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.ERROR)
  tfds.display_progress_bar(False)
  try:
    yield
  finally:
    tfds.display_progress_bar(True)
    logger.setLevel(level)

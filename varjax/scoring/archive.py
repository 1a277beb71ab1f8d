"""One array of an .npz, opened and checked before any of it is read.

Sample files are larger than memory and come from anywhere: what a header
declares must fit into its record, objects are refused, and nothing is
unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import math
import pathlib
from typing import IO, NamedTuple
import zipfile
import zlib

import numpy as np

from varjax import errors

# What damaged archives raise, on opening or while reading.
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError,
          RuntimeError)  # fmt: skip


class Opened(NamedTuple):
  """An array whose data is what `stream` gives next."""

  stream: IO[bytes]
  shape: tuple[int, ...]
  dtype: np.dtype
  fortran: bool


def names(path: pathlib.Path) -> set[str]:
  """The arrays of an .npz.

  Raises:
    DataError: not a zip archive.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      return {name.removesuffix('.npy') for name in archive.namelist()}
  except DAMAGE as error:
    raise _unreadable(path, error) from error


@contextlib.contextmanager
def open_array(path: pathlib.Path, name: str) -> Iterator[Opened]:
  """Opens an array of an .npz after its header.

  Raises:
    DataError: no such file or array, or it declares more than it has.
  """
  with contextlib.ExitStack() as stack:
    try:
      archive = stack.enter_context(zipfile.ZipFile(path))
      info = archive.getinfo(f'{name}.npy')
      stream = stack.enter_context(archive.open(info))
      opened = Opened(stream, *_header(stream))
    except KeyError:
      raise errors.DataError(
        f'{path}: has no array {name}; a sample .npz holds its images as arr_0'
      ) from None
    except DAMAGE as error:
      raise _unreadable(path, error) from error
    declared = math.prod(opened.shape) * opened.dtype.itemsize
    if declared > info.file_size:
      raise errors.DataError(
        f'{path}: {name} declares the shape {list(opened.shape)}, its record '
        f'has {info.file_size} bytes'
      )
    yield opened


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, bool]:
  version = np.lib.format.read_magic(stream)
  read = (
    np.lib.format.read_array_header_1_0
    if version == (1, 0)
    else np.lib.format.read_array_header_2_0
  )
  shape, fortran, dtype = read(stream)
  return shape, dtype, fortran


def _unreadable(path: pathlib.Path, error: BaseException) -> errors.DataError:
  return errors.DataError(f'{path}: cannot be read as an .npz ({error})')

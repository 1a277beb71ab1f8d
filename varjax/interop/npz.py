"""NumPy archives of plain arrays, with every declared size checked.

`np.load` allocates what a header declares before it reads; here a header
must agree with the record that it stands in.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib

import numpy as np

from varjax import errors

# Weights compress by a few per cent; a bomb by a thousand.
_MAX_RATIO = 100
_SMALL = 2**20


def is_npz(path: str) -> bool:
  """True when a zip archive holds .npy records and no pickle of torch."""
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
  except (zipfile.BadZipFile, OSError, RuntimeError, ValueError):
    return False
  return bool(names) and all(name.endswith('.npy') for name in names)


def read(path: str) -> dict[str, np.ndarray]:
  """All arrays of an .npz by name.

  Raises:
    CheckpointError: damaged, with Python objects, or larger than declared.
  """
  arrays: dict[str, np.ndarray] = {}
  try:
    with zipfile.ZipFile(path) as archive:
      infos = archive.infolist()
      declared = sum(info.file_size for info in infos)
      present = os.path.getsize(path)
      if declared > max(_SMALL, _MAX_RATIO * present):
        raise errors.CheckpointError(
          f'{path}: its records declare {declared} bytes, more than '
          f'{_MAX_RATIO} times the {present} bytes of the file'
        )
      for info in infos:
        name = info.filename.removesuffix('.npy')
        if name in arrays:
          raise errors.CheckpointError(f'{path}: has two arrays {name[:80]!r}')
        arrays[name] = _array(archive.read(info), name, path)
  except (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
  ) as error:
    first = str(error).strip().splitlines()
    raise errors.CheckpointError(
      f'{path}: truncated or corrupt ({first[0] if first else "no reason"})'
    ) from error
  return arrays


def _array(data: bytes, name: str, path: str) -> np.ndarray:
  stream = io.BytesIO(data)
  version = np.lib.format.read_magic(stream)
  if version == (1, 0):
    header = np.lib.format.read_array_header_1_0(stream)
  else:
    header = np.lib.format.read_array_header_2_0(stream)
  shape, fortran, dtype = header
  if dtype.hasobject or dtype.names or dtype.kind not in 'fiubV':
    raise errors.CheckpointError(
      f'{path}: array {name[:80]!r} has the type {dtype}; only numbers are read'
    )
  found = len(data) - stream.tell()
  count = math.prod(shape)
  if count * dtype.itemsize != found:
    raise errors.CheckpointError(
      f'{path}: array {name[:80]!r} of shape {shape} needs '
      f'{count * dtype.itemsize} bytes, its record has {found}'
    )
  if dtype.kind == 'V':
    raise errors.CheckpointError(
      f'{path}: array {name[:80]!r} has the type {dtype}; store bfloat16 '
      'weights as float32 or in a .safetensors'
    )
  values = np.frombuffer(data, dtype, count, stream.tell())
  return values.reshape(shape, order='F' if fortran else 'C').copy()

"""The pickles inside PyTorch files, read without running anything.

A pickle is a program. This one may name seven kinds of things: an ordered
dictionary, the two functions that rebuild tensors, and storage types; all
but the first are replaced by inert descriptions of our own. Operations that
no state dict needs are refused before the program starts.
"""

from __future__ import annotations

from collections import OrderedDict
import io
import pickle
import pickletools
from typing import Any, NamedTuple

from varjax import errors

# A state dict of a thousand tensors takes a few hundred kilobytes.
MAX_PICKLE_BYTES = 16 * 2**20
BFLOAT16 = 'bf16'
# Little-endian numpy types; bfloat16 has none.
_STORAGES = {
  'FloatStorage': 'f4',
  'DoubleStorage': 'f8',
  'HalfStorage': 'f2',
  'BFloat16Storage': BFLOAT16,
  'LongStorage': 'i8',
  'IntStorage': 'i4',
  'ShortStorage': 'i2',
  'CharStorage': 'i1',
  'ByteStorage': 'u1',
  'BoolStorage': 'b1',
}
_ITEM_BYTES = {BFLOAT16: 2, 'f2': 2, 'f4': 4, 'f8': 8, 'b1': 1}
_OPERATIONS = frozenset((
  'PROTO', 'FRAME', 'STOP', 'MARK', 'POP', 'POP_MARK',
  'NONE', 'NEWTRUE', 'NEWFALSE', 'INT', 'BININT', 'BININT1', 'BININT2',
  'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING',
  'SHORT_BINSTRING', 'UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE',
  'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'EMPTY_TUPLE', 'TUPLE',
  'TUPLE1', 'TUPLE2', 'TUPLE3', 'EMPTY_LIST', 'LIST', 'APPEND', 'APPENDS',
  'EMPTY_DICT', 'DICT', 'SETITEM', 'SETITEMS', 'EMPTY_SET', 'ADDITEMS',
  'FROZENSET', 'PUT', 'BINPUT', 'LONG_BINPUT', 'GET', 'BINGET',
  'LONG_BINGET', 'MEMOIZE', 'GLOBAL', 'STACK_GLOBAL', 'REDUCE', 'BUILD',
  'BINPERSID',
))  # fmt: skip
_MAX_RANK = 32


class Storage(NamedTuple):
  """Numbers somewhere in the file; `kind` is a numpy type or BFLOAT16."""

  kind: str
  key: str
  count: int

  @property
  def item_bytes(self) -> int:
    """Bytes of one number."""
    return _ITEM_BYTES.get(self.kind) or int(self.kind[1:])

  @property
  def nbytes(self) -> int:
    """Bytes of all numbers."""
    return self.count * self.item_bytes


class Tensor(NamedTuple):
  """A strided view of a storage, within its bounds; counts are in items."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  @property
  def count(self) -> int:
    """Items of the view."""
    count = 1
    for size in self.shape:
      count *= size
    return count


# What a pickle can get hold of must be immutable: its BUILD operation sets
# attributes of any object that has them. Instances of these have none.
class _StorageType(NamedTuple):
  kind: str


class _RebuildTensor(NamedTuple):
  path: str

  def __call__(self, storage, offset, shape, strides, *_: Any) -> Tensor:
    tensor = Tensor(storage, offset, tuple(shape), tuple(strides))
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if (
      not isinstance(storage, Storage)
      or any(type(n) is not int or n < 0 for n in numbers)
      or len(tensor.shape) != len(tensor.strides)
      or len(tensor.shape) > _MAX_RANK
    ):
      raise errors.CheckpointError(
        f'{self.path}: holds a tensor that is not described by a storage, an '
        'offset, and as many sizes as strides'
      )
    last = tensor.offset + sum(
      (size - 1) * stride
      for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    count = tensor.count
    if count and (last >= storage.count or count > storage.count):
      raise errors.CheckpointError(
        f'{self.path}: a tensor of shape {tensor.shape} at item '
        f'{tensor.offset} leaves its storage {storage.key!r} of '
        f'{storage.count} items'
      )
    return tensor


class _RebuildParameter(NamedTuple):
  path: str

  def __call__(self, data, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
      raise errors.CheckpointError(
        f'{self.path}: holds a parameter that is not a tensor'
      )
    return data


class _Unpickler(pickle.Unpickler):
  """Builds containers, numbers, text and descriptions of tensors only."""

  def __init__(self, data: bytes, path: str):
    super().__init__(io.BytesIO(data), encoding='utf-8')
    self._path = path

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ('collections', 'OrderedDict'):
      return OrderedDict
    if module == 'torch' and name in _STORAGES:
      return _StorageType(_STORAGES[name])
    if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
      return _RebuildTensor(self._path)
    if (module, name) == ('torch._utils', '_rebuild_parameter'):
      return _RebuildParameter(self._path)
    wanted = f'{module}.{name}'[:80].encode('unicode_escape').decode()
    raise errors.CheckpointError(
      f'{self._path}: asks for {wanted}; only tensors in plain dictionaries '
      'are read, so nothing of this file was run'
    )

  def persistent_load(self, pid: Any) -> Storage:
    # The sixth entry, of the old format, is a view of the storage or None.
    if (
      isinstance(pid, tuple)
      and len(pid) in (5, 6)
      and pid[0] == 'storage'
      and isinstance(pid[1], _StorageType)
      and isinstance(pid[2], str)
      and pid[2].isascii()
      and pid[2].isdigit()
      and type(pid[4]) is int
      and pid[4] >= 0
      and (len(pid) == 5 or pid[5] is None)
    ):
      return Storage(pid[1].kind, pid[2], pid[4])
    raise errors.CheckpointError(
      f'{self._path}: refers to data in a way that no state dict does; a '
      'storage needs a type, a numeric key and a length'
    )


def loads(data: bytes, path: str) -> tuple[Any, int]:
  """Reads the pickle at the start of `data`.

  Args:
    data: bytes that begin with a pickle.
    path: the file to name in errors.

  Returns:
    Containers, numbers, text and `Tensor` descriptions; and how many bytes
    the pickle takes.

  Raises:
    CheckpointError: truncated, malformed, or anything but a state dict.
  """
  try:
    end = _check_operations(data, path)
    return _Unpickler(data[:end], path).load(), end
  except errors.CheckpointError:
    raise
  # A malformed program fails in as many ways as there are operations.
  except Exception as error:
    raise errors.CheckpointError(
      f'{path}: its pickle is truncated or malformed ({type(error).__name__})'
    ) from error


def _check_operations(data: bytes, path: str) -> int:
  """Refuses operations that no state dict has; returns the length."""
  stream = io.BytesIO(data)
  operations = pickletools.genops(stream)
  for index, (operation, argument, _) in enumerate(operations):
    if stream.tell() > MAX_PICKLE_BYTES:
      raise errors.CheckpointError(
        f'{path}: its pickle is longer than {MAX_PICKLE_BYTES >> 20} MiB; a '
        'state dict keeps its numbers outside of it'
      )
    if operation.name not in _OPERATIONS:
      raise errors.CheckpointError(
        f'{path}: its pickle has the operation {operation.name}, which no '
        'state dict needs; nothing of this file was run'
      )
    # The memo is an array: a large index allocates up to it.
    if operation.name.endswith('PUT') and int(argument) > index:
      raise errors.CheckpointError(
        f'{path}: its pickle numbers its objects out of order'
      )
    if operation.name == 'STOP':
      return stream.tell()
  raise EOFError

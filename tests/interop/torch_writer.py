"""Writes the formats of `torch.save`, so that tests need no torch.

The pickles are made by Python's own pickler: objects that reduce to the
functions of torch are pickled by name, which needs stand-in modules only
while writing.
"""

from collections import OrderedDict
import contextlib
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np

STORAGES = {
  'float32': 'FloatStorage',
  'float64': 'DoubleStorage',
  'float16': 'HalfStorage',
  'int64': 'LongStorage',
  'int32': 'IntStorage',
  'uint8': 'ByteStorage',
  'bool': 'BoolStorage',
  'bfloat16': 'BFloat16Storage',
}


class Tensor:
  """A view of a storage as torch describes it; any field can be a lie."""

  def __init__(self, key, kind, count, offset, shape, strides, parameter=False):
    self.storage = Storage(key, kind, count)
    self.offset, self.shape, self.strides = offset, shape, strides
    self.parameter = parameter

  def __reduce__(self):
    utils = sys.modules['torch._utils']
    arguments = (self.storage, self.offset, self.shape, self.strides)
    if self.parameter:
      self.parameter = False
      return utils._rebuild_parameter, (self, True, OrderedDict())
    return utils._rebuild_tensor_v2, (*arguments, False, OrderedDict())


class Storage:
  def __init__(self, key, kind, count):
    self.key, self.kind, self.count = key, kind, count


class Call:
  """Pickles as a call of any function: what an attacker writes."""

  def __init__(self, function, *arguments):
    self.function, self.arguments = function, arguments

  def __reduce__(self):
    return self.function, self.arguments


class _Pickler(pickle.Pickler):
  entries = 5

  def persistent_id(self, value):
    if not isinstance(value, Storage):
      return None
    kind = getattr(sys.modules['torch'], value.kind)
    pid = ('storage', kind, value.key, 'cuda:0', value.count)
    return pid if self.entries == 5 else (*pid, None)


class _LegacyPickler(_Pickler):
  entries = 6


@contextlib.contextmanager
def _torch_by_name():
  """Modules whose functions can be pickled by name."""
  torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  for name in STORAGES.values():
    setattr(torch, name, type(name, (), {'__module__': 'torch'}))
  for name in ('_rebuild_tensor_v2', '_rebuild_parameter'):

    def function(*_):
      raise AssertionError('called while writing')

    function.__module__, function.__qualname__ = 'torch._utils', name
    setattr(utils, name, function)
  torch._utils = utils
  saved = {name: sys.modules.get(name) for name in ('torch', 'torch._utils')}
  sys.modules.update({'torch': torch, 'torch._utils': utils})
  try:
    yield
  finally:
    for name, module in saved.items():
      del sys.modules[name]
      if module is not None:
        sys.modules[name] = module


def dumps(tree, pickler=_Pickler, protocol=2):
  stream = io.BytesIO()
  with _torch_by_name():
    pickler(stream, protocol).dump(tree)
  return stream.getvalue()


def describe(state, *, parameter=False):
  """(tree of Tensors, bytes by storage key) of a dict of arrays."""
  tree, storages = OrderedDict(), {}
  for name, array in state.items():
    array = np.asarray(array)
    key = str(len(storages))
    contiguous = np.ascontiguousarray(array)
    storages[key] = contiguous
    strides = [
      s // array.itemsize for s in contiguous.reshape(array.shape).strides
    ]
    tree[name] = Tensor(
      key, STORAGES[array.dtype.name], array.size, 0, array.shape,
      tuple(strides), parameter,
    )  # fmt: skip
  tree._metadata = OrderedDict({'': {'version': 1}})
  return tree, storages


def write_zip(path, tree, storages, *, compress=False, extra=(), order=None):
  """The format of torch >= 1.6."""
  kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
  with zipfile.ZipFile(path, 'w', kind) as archive:
    data = tree if isinstance(tree, bytes) else dumps(tree)
    archive.writestr('archive/data.pkl', data)
    if order:
      archive.writestr('archive/byteorder', order)
    for key, array in storages.items():
      raw = array if isinstance(array, bytes) else array.tobytes()
      archive.writestr(f'archive/data/{key}', raw)
    for name, raw in extra:
      archive.writestr(name, raw)
    archive.writestr('archive/version', '3\n')
  return path


def write_legacy(path, tree, storages):
  """The format of torch < 1.6."""
  system = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {}}
  with open(path, 'wb') as file:
    for value in (0x1950A86A20F9469CFC6C, 1001, system):
      file.write(pickle.dumps(value, 2))
    file.write(tree if isinstance(tree, bytes) else dumps(tree, _LegacyPickler))
    file.write(pickle.dumps(sorted(storages), 2))
    for key in sorted(storages):
      file.write(struct.pack('<q', storages[key].size))
      file.write(storages[key].tobytes())
  return path


def save(path, state, *, legacy=False, wrap=lambda tree: tree, **kwargs):
  """Writes arrays as `torch.save` would."""
  tree, storages = describe(state, **kwargs)
  write = write_legacy if legacy else write_zip
  return write(path, wrap(tree), storages)

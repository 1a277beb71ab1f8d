"""Pickles written to do harm: nothing runs, and one sentence says so."""

import builtins
from collections import OrderedDict
import os
import pathlib

import numpy as np
import pytest
import torch_writer as writer
from weight_files import Boom, refused

from varjax.interop import unpickle


@pytest.mark.parametrize(
  ('payload', 'named'),
  [
    (writer.Call(os.system, 'touch ran'), '.system'),
    (writer.Call(builtins.eval, '1'), 'eval'),
    (writer.Call(builtins.exec, 'pass'), 'exec'),
    (writer.Call(getattr, (), '__class__'), 'getattr'),
    (writer.Call(np.frombuffer, b'1234'), 'numpy'),
    (writer.Call(np.load, 'x'), 'numpy'),
    (np.float64(1.0), 'numpy'),
    (np.arange(3), 'numpy'),
    (pathlib.PurePosixPath('x'), 'pathlib'),
    (Boom(), 'boom'),
    ({'deep': [(1, {'x': Boom()})]}, 'boom'),
    (OrderedDict, None),
  ],
)
@pytest.mark.parametrize('legacy', [False, True])
def test_malicious_pickles_run_nothing(
  tmp_path, monkeypatch, payload, named, legacy
):
  monkeypatch.chdir(tmp_path)
  write = writer.write_legacy if legacy else writer.write_zip
  path = write(tmp_path / 'x.pth', {'a': payload}, {})
  refused(path, *([f'{named}'] if named else []))
  assert not (tmp_path / 'ran').exists()


def program(*operations):
  """A pickle by hand."""
  return b'\x80\x02' + b''.join(operations) + b'.'


SYSTEM = b'cposix\nsystem\n'


@pytest.mark.parametrize(
  ('data', 'said'),
  [
    (program(SYSTEM, b'(X\x02\x00\x00\x00ls', b'tR'), 'posix.system'),
    (program(b'(X\x02\x00\x00\x00ls', b'iposix\nsystem\n'), 'INST'),
    (program(b'(', SYSTEM, b'X\x02\x00\x00\x00ls', b'o'), 'OBJ'),
    (program(b'ccollections\nOrderedDict\n', b')\x81'), 'NEWOBJ'),
    (program(b'\x82\x01'), 'EXT1'),
    (program(b'P0\n'), 'PERSID'),
    # A dotted name would walk from an allowed module to anything.
    (
      b'\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.__init__.x\x94\x93.',
      'collections.OrderedDict.__init__',
    ),
    (program(b'ctorch\nos.system\n'), 'torch.os.system'),
    (program(b'ctorch._utils\n_rebuild_tensor\n'), '_rebuild_tensor'),
    (program(b'ctorch.storage\n_load_from_bytes\n'), '_load_from_bytes'),
    # Attributes of what a pickle can reach cannot be set.
    (
      program(
        b'ctorch._utils\n_rebuild_tensor_v2\n',
        b'N}X\x04\x00\x00\x00path',
        b'X\x01\x00\x00\x00ys\x86b',
      ),
      'malformed',
    ),
    (
      program(
        b'ccollections\nOrderedDict\n',
        b'}X\x04\x00\x00\x00keysX\x01\x00\x00\x00ysb',
      ),
      'malformed',
    ),
    (program(b']r\xff\xff\xff\x7f'), 'out of order'),
    (program(b'X\xff\xff\xff\x7f'), 'malformed'),
    (program(b'}K\x01K\x02sX\x01\x00\x00\x00'), 'malformed'),
    (program(b']]a'), 'holds a list'),
    (program(b'}'), 'no tensors'),
    (b'\x80\x02}', 'malformed'),
    (b'', 'malformed'),
    (program(b'}q\x00X\x05\x00\x00\x00modelh\x00s'), 'no tensors'),
  ],
)
def test_programs_are_refused(tmp_path, data, said):
  refused(writer.write_zip(tmp_path / 'x.pth', data, {}), said)


def test_nothing_reachable_can_be_changed():
  data = writer.dumps(writer.Tensor('0', 'FloatStorage', 1, 0, (1,), (1,)))
  tensor, length = unpickle.loads(data + b'tail', 'x')
  assert length == len(data)
  for value in (tensor, tensor.storage, unpickle._RebuildTensor('x')):
    assert not hasattr(value, '__dict__')
    with pytest.raises(AttributeError):
      value.path = 'y'


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    (('0', 'FloatStorage', 4, 1, (4,), (1,)), 'leaves its storage'),
    (('0', 'FloatStorage', 4, 0, (2, 2), (3, 1)), 'leaves its storage'),
    (('0', 'FloatStorage', 4, 0, (2**40,), (0,)), 'leaves its storage'),
    (('0', 'FloatStorage', 4, -1, (4,), (1,)), 'not described'),
    (('0', 'FloatStorage', 4, 0, (4,), (-1,)), 'not described'),
    (('0', 'FloatStorage', 4, 0, (-4,), (1,)), 'not described'),
    (('0', 'FloatStorage', 4, 0, (4,), (1, 1)), 'not described'),
    (('0', 'FloatStorage', 4, 0, (1,) * 40, (1,) * 40), 'not described'),
    (('0', 'FloatStorage', 2**40, 0, (2**40,), (1,)), ''),
    (('0', 'FloatStorage', 2, 0, (2,), (1,)), 'bytes'),
    (('0', 'DoubleStorage', 4, 0, (4,), (1,)), ''),
    (('0', 'FloatStorage', -4, 0, (0,), (1,)), 'a storage needs'),
    (('9', 'FloatStorage', 4, 0, (4,), (1,)), ''),
    (('../0', 'FloatStorage', 4, 0, (4,), (1,)), 'numeric key'),
    (('/etc/passwd', 'FloatStorage', 4, 0, (4,), (1,)), 'numeric key'),
  ],
)
def test_tensors_stay_in_their_storage(tmp_path, fields, said, legacy):
  tree = {'a': writer.Tensor(*fields)}
  write = writer.write_legacy if legacy else writer.write_zip
  data = {'0': np.zeros(4, np.float32)}
  refused(write(tmp_path / 'x.pth', tree, data), said)


def test_overlapping_tensors_cannot_fill_the_memory(tmp_path):
  tensor = ('0', 'FloatStorage', 10_000, 0, (10_000,), (1,))
  tree = {str(i): writer.Tensor(*tensor) for i in range(40)}
  data = {'0': np.zeros(10_000, np.float32)}
  refused(writer.write_zip(tmp_path / 'x.pth', tree, data), 'overlap')

"""Files of weights: every format, and every way a file can be bad."""

import builtins
from collections import OrderedDict
import io
import os
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch_writer as writer

from varjax import errors
from varjax.interop import pth, unpickle


@pytest.fixture
def state():
  rng = np.random.default_rng(0)
  return {
    'head.weight': rng.normal(size=(3, 4)).astype(np.float32),
    'a.scale': rng.normal(size=(2, 1, 5)).astype(np.float32),
    'lvl_1L': np.arange(6)[None],
    'flag': np.array([True, False]),
    'scalar': np.array(2.5, np.float32),
    'empty': np.zeros((0, 3), np.float32),
    'wide': np.array([1.0, 1e-300]),
  }


def same(found, expected):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name].dtype == np.asarray(value).dtype, name
    np.testing.assert_array_equal(found[name], value, name)


def refused(path, *said):
  """The file is refused in one sentence that names it."""
  with pytest.raises(errors.CheckpointError) as caught:
    pth.read_state(path)
  text = str(caught.value)
  assert text.startswith(str(path))
  assert '\n' not in text
  for part in said:
    assert part in text, text


# --- what is read -------------------------------------------------------------


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('parameter', [False, True])
def test_torch_formats(state, tmp_path, legacy, parameter):
  path = tmp_path / 'x.pth'
  writer.save(path, state, legacy=legacy, parameter=parameter)
  same(pth.read_state(path), state)


@pytest.mark.parametrize('legacy', [False, True])
def test_narrow_floats_become_float32(tmp_path, legacy):
  values = np.array([[1.0, -2.5, 3e-5], [65504.0, 0.1, -0.0]], np.float32)
  state = {
    'half': values.astype(np.float16),
    'brain': values.astype(ml_dtypes.bfloat16),
  }
  path = writer.save(tmp_path / 'x.pth', state, legacy=legacy)
  expected = {name: value.astype(np.float32) for name, value in state.items()}
  same(pth.read_state(path), expected)
  safetensors.numpy.save_file(state, tmp_path / 'x.safetensors')
  same(pth.read_state(tmp_path / 'x.safetensors'), expected)


def test_safetensors_and_npz(state, tmp_path):
  safetensors.numpy.save_file(state, tmp_path / 'x.safetensors')
  same(pth.read_state(tmp_path / 'x.safetensors'), state)
  for save in (np.savez, np.savez_compressed):
    fortran = {k: np.asfortranarray(v) for k, v in state.items()}
    save(tmp_path / 'x.npz', **fortran)
    same(pth.read_state(tmp_path / 'x.npz'), state)


def test_strided_views_share_a_storage(tmp_path):
  numbers = np.arange(24, dtype=np.float32)
  tree = {
    'transposed': writer.Tensor('0', 'FloatStorage', 24, 0, (4, 6), (1, 4)),
    'part': writer.Tensor('0', 'FloatStorage', 24, 10, (2, 3), (6, 2)),
  }
  path = writer.write_zip(tmp_path / 'x.pth', tree, {'0': numbers})
  found = pth.read_state(path)
  np.testing.assert_array_equal(found['transposed'], numbers.reshape(6, 4).T)
  np.testing.assert_array_equal(found['part'], [[10, 12, 14], [16, 18, 20]])
  found['part'][:] = 0
  assert found['transposed'][2, 2] == 10


def test_big_endian(tmp_path):
  tree, _ = writer.describe({'a': np.arange(3, dtype=np.float32)})
  data = {'0': np.arange(3, dtype='>f4')}
  path = writer.write_zip(tmp_path / 'x.pth', tree, data, order='big')
  same(pth.read_state(path), {'a': np.arange(3, dtype=np.float32)})


@pytest.mark.parametrize('legacy', [False, True])
def test_trainer_states_are_unwrapped(tmp_path, legacy):
  both = {'a': np.ones(3, np.float32), 'b': np.zeros(2, np.float32)}

  def wrap(tree):
    inner = {'vae_local': {'x': tree['a']}, 'var_wo_ddp': {'y': tree['b']}}
    return {'epoch': 3, 'args': {'lr': 1e-4}, 'trainer': inner}

  path = writer.save(tmp_path / 'x.pth', both, legacy=legacy, wrap=wrap)
  same(pth.read_state(path, 'vae'), {'x': both['a']})
  same(pth.read_state(path, 'var'), {'y': both['b']})
  refused(path, 'vae_local and var_wo_ddp')


def test_prefixes_and_parts_of_names(tmp_path):
  a, b = np.ones(3, np.float32), np.zeros(2, np.float32)
  path = tmp_path / 'x.pth'
  writer.save(path, {'module.a': a, 'module.b': b})
  same(pth.read_state(path), {'a': a, 'b': b})
  writer.save(path, {'module.a': a, 'b': b})
  same(pth.read_state(path), {'module.a': a, 'b': b})
  writer.save(path, {'a': a}, wrap=lambda tree: {'state_dict': tree})
  same(pth.read_state(path, 'vae'), {'a': a})
  np.savez(tmp_path / 'x.npz', **{'vae/a': a, 'var/b': b})
  same(pth.read_state(tmp_path / 'x.npz', 'vae'), {'a': a})
  same(pth.read_state(tmp_path / 'x.npz', 'var'), {'b': b})
  refused(tmp_path / 'x.npz', 'vae and var')


def test_torch_agrees(state, tmp_path):
  torch = pytest.importorskip('torch', reason='the oracle is optional')
  tensors = {name: torch.from_numpy(value) for name, value in state.items()}
  tensors['transposed'] = tensors['head.weight'].T
  expected = state | {'transposed': state['head.weight'].T}
  for modern in (True, False):
    path = tmp_path / f'{modern}.pth'
    torch.save(tensors, path, _use_new_zipfile_serialization=modern)
    same(pth.read_state(path), expected)


# --- what is refused ----------------------------------------------------------


def boom(*_):
  raise AssertionError('the pickle ran')


class Boom:
  def __reduce__(self):
    return boom, ()


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


@pytest.mark.parametrize('legacy', [False, True])
def test_truncated_files(state, tmp_path, legacy):
  whole = writer.save(tmp_path / 'x.pth', state, legacy=legacy).read_bytes()
  for share in (0.1, 0.5, 0.9, 0.999):
    path = tmp_path / 'cut.pth'
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path)


def _mutate(data, rng):
  """A copy with some bytes changed, lost or added."""
  data = bytearray(data)
  for _ in range(rng.integers(1, 4)):
    at = int(rng.integers(len(data)))
    noise = rng.integers(0, 256, rng.integers(1, 20)).astype(np.uint8)
    kind = rng.integers(3)
    if kind == 0:
      data[at] = noise[0]
    elif kind == 1:
      del data[at : at + len(noise)]
    else:
      data[at:at] = noise.tobytes()
  return data


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'npz', 'safetensors'])
def test_any_damage_is_one_sentence_or_harmless(state, tmp_path, kind):
  path = tmp_path / 'x'
  if kind == 'npz':
    with open(path, 'wb') as file:
      np.savez(file, **state)
  elif kind == 'safetensors':
    safetensors.numpy.save_file(state, path)
  else:
    writer.save(path, state, legacy=kind == 'legacy')
  whole, rng, said = path.read_bytes(), np.random.default_rng(1), []
  for _ in range(600):
    path.write_bytes(_mutate(whole, rng))
    try:
      pth.read_state(path)
    except errors.CheckpointError as error:
      said.append(str(error))
  assert len(said) > 300
  assert not any('\n' in text for text in said)


def test_an_archive_of_an_unknown_version(state, tmp_path):
  path = writer.save(tmp_path / 'x.pth', state)
  data = bytearray(path.read_bytes())
  data[data.index(b'PK\x01\x02') + 6] = 200
  path.write_bytes(data)
  refused(path, 'version')


def test_a_flipped_bit_is_noticed(state, tmp_path):
  path = writer.save(tmp_path / 'x.pth', state)
  data = bytearray(path.read_bytes())
  at = data.index(state['head.weight'].tobytes())
  data[at] ^= 1
  path.write_bytes(data)
  refused(path, 'archive/data/0', 'CRC')


def test_archives_that_torch_does_not_write(state, tmp_path):
  tree, data = writer.describe(state)
  path = tmp_path / 'x.pth'
  refused(writer.write_zip(path, tree, data, compress=True), 'compressed')
  extra = [('other/data.pkl', b'')]
  refused(writer.write_zip(path, tree, data, extra=extra), '2 data.pkl')
  with pytest.warns(UserWarning, match='Duplicate'):
    writer.write_zip(path, tree, data, extra=[('archive/data/0', b'')])
  refused(path, 'same name')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('readme.txt', 'x')
  refused(path, '0 data.pkl')


def test_a_record_that_declares_more_than_the_file_has(state, tmp_path):
  path = writer.save(tmp_path / 'x.pth', state)
  data = bytearray(path.read_bytes())
  # Sizes of the first record in the central directory.
  at = data.index(b'PK\x01\x02')
  data[at + 20 : at + 28] = struct.pack('<II', 2**31, 2**31)
  path.write_bytes(data)
  refused(path, 'declare')


def test_other_files(tmp_path):
  path = tmp_path / 'x.pth'
  refused(path, 'cannot be opened')
  refused(tmp_path)
  for content in (b'', b'\x80', b'hello world, this is no file of weights',
                  b'PK\x03\x04', b'PK\x05\x06' + bytes(18)):  # fmt: skip
    path.write_bytes(content)
    refused(path)
  path.write_bytes(pickle.dumps({'a': 1}))
  refused(path, 'older format')
  path.write_bytes(struct.pack('<Q', 2**40) + b'{"a":1}')
  refused(path, 'safetensors')


def test_entries_that_are_no_tensors_are_named(tmp_path):
  tree, data = writer.describe({'a': np.ones(2, np.float32)})
  tree['step'] = 3
  refused(writer.write_zip(tmp_path / 'x.pth', tree, data), "'step'")


def test_safetensors_are_checked(state, tmp_path):
  path = tmp_path / 'x.safetensors'
  safetensors.numpy.save_file(state, path)
  path.write_bytes(path.read_bytes()[:-3])
  refused(path, 'safetensors')


def _npy(header_shape, data, dtype='<f4'):
  stream = io.BytesIO()
  header = {'descr': dtype, 'fortran_order': False, 'shape': header_shape}
  np.lib.format.write_array_header_1_0(stream, header)
  return stream.getvalue() + data


@pytest.mark.parametrize(
  ('record', 'said'),
  [
    (_npy((2**50,), b'1234'), "array 'a' of shape"),
    (_npy((2,), b'1234'), "array 'a' of shape"),
    (_npy((1,), b'1234' * 2), "array 'a' of shape"),
    (_npy((1,), pickle.dumps(Boom()), '|O'), 'only numbers'),
    (b'\x93NUMPY\x01\x00\xff\xff{', 'corrupt'),
    (b'nothing', 'corrupt'),
  ],
)
def test_npz_records_are_checked(tmp_path, record, said):
  with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
    archive.writestr('a.npy', record)
  refused(tmp_path / 'x.npz', said)


def test_an_npz_bomb_is_refused(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez_compressed(path, a=np.zeros(2**20, np.float32))
  refused(path, 'more than 100 times')

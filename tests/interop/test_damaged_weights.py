"""Damaged files of weights, and files that are none."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch_writer as writer
from weight_files import Boom, refused

from varjax import errors
from varjax.interop import pth


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

"""Files of weights: every format that is read."""

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch_writer as writer
from weight_files import refused, same

from varjax.interop import pth


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

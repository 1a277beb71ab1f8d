"""Finding the compilers, or saying how to get them."""

import importlib.util
import os
import re
import subprocess
import sys

import jax
import pytest

from varjax import cli, devices, errors, sharding, topology
from varjax.aot import cuda, target
from varjax.spec import MeshSpec

V5E, H100 = topology.parse('v5e:4x4'), topology.parse('h100:1')


@pytest.fixture
def no_compilers(monkeypatch):
  absent = ('libtpu', 'jax_plugins.xla_cuda12')
  real = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *rest: None if name in absent else real(name, *rest),
  )


@pytest.mark.usefixtures('no_compilers')
@pytest.mark.parametrize(('slice_', 'extra'), [(V5E, 'tpu'), (H100, 'cuda')])
def test_without_a_compiler_the_message_says_what_to_type(slice_, extra):
  before = dict(os.environ)
  with pytest.raises(errors.ConfigError, match=rf'varjax\[{extra}\]'):
    target.prepare(slice_)
  assert dict(os.environ) == before


@pytest.mark.usefixtures('no_compilers')
def test_the_command_ends_in_that_sentence(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path))
  argv = ['aot', '--config', 'experiments/var_imagenet256.py:size=d16',
          '--topology', 'v5e:4x4']  # fmt: skip
  assert cli.main(argv) == 2
  assert "pip install 'varjax[tpu]'" in capsys.readouterr().err


def test_versions_name_what_compiles():
  for slice_, last in ((V5E, 'libtpu'), (H100, 'jax-cuda12-plugin')):
    found = target.versions(slice_)
    assert found['jax']
    assert found['jaxlib']
    assert list(found)[-1] == last


def test_every_gpu_of_the_table_is_described():
  gpus = [device for device in devices.DEVICES.values() if not device.torus]
  assert gpus
  for device in gpus:
    text = cuda.description(topology.parse(f'{device.name}:1'))
    assert device.kinds[0].split('-')[0] in text
    memory = int(re.search(r'device_memory_size: (\d+)', text)[1])
    assert 0.98 < memory / device.memory_bytes < 1.08


def test_a_gpu_is_used_as_far_as_jax_takes_its_memory(monkeypatch):
  monkeypatch.delenv(cuda.FRACTION, raising=False)
  usual = cuda.usable_bytes(H100)
  assert usual == 84_942_979_072 * 3 // 4
  monkeypatch.setenv(cuda.FRACTION, '0.9')
  assert cuda.usable_bytes(H100) == int(84_942_979_072 * 0.9)
  for wrong in ('much', '0', '1.5'):
    monkeypatch.setenv(cuda.FRACTION, wrong)
    with pytest.raises(errors.ConfigError, match=f'{cuda.FRACTION}='):
      cuda.usable_bytes(H100)


def test_a_mesh_may_split_an_axis_of_the_torus(monkeypatch):
  def refuse(*_, **__):
    raise NotImplementedError('no whole axis of the torus has this size')

  monkeypatch.setattr(jax, 'make_mesh', refuse)
  mesh = sharding.make_mesh(MeshSpec(2, -1, 2))
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  assert len({d.id for d in mesh.devices.flat}) == 8


_REAL = """
import os
from varjax import sharding, topology
from varjax.aot import target
target.prepare(topology.parse('v5e:4x4'))
from varjax.spec import MeshSpec
for text in ('v5e:2x2', 'v5e:4x4', 'v5p:2x2x1', 'v4:2x2x2', 'v6e:4x4'):
  slice_ = topology.parse(text)
  found = target.devices(slice_)
  assert len(found) == slice_.count, text
  kind = found[0].device_kind
  assert kind.startswith(slice_.device.kinds), kind
  for spec in (MeshSpec(1, -1, 1), MeshSpec(-1, 2, 1), MeshSpec(1, -1, 2)):
    mesh = sharding.make_mesh(spec, found)
    assert mesh.devices.size == slice_.count
"""


@pytest.mark.slow
def test_real_slices_have_the_chips_of_the_table():
  if not target.installed(V5E):
    pytest.skip(target.compiler_of(V5E).INSTALL)
  done = subprocess.run(
    [sys.executable, '-c', _REAL], capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stderr

"""Finding the TPU compiler, or saying how to get it."""

import importlib.util
import os
import subprocess
import sys

import jax
import pytest

from varjax import cli, errors, sharding, topology
from varjax.aot import target
from varjax.spec import MeshSpec


@pytest.fixture
def no_libtpu(monkeypatch):
  real = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *rest: None if name == 'libtpu' else real(name, *rest),
  )


@pytest.mark.usefixtures('no_libtpu')
def test_without_libtpu_the_message_says_what_to_type():
  before = dict(os.environ)
  with pytest.raises(errors.ConfigError, match=r'varjax\[tpu\]'):
    target.prepare()
  assert dict(os.environ) == before


@pytest.mark.usefixtures('no_libtpu')
def test_the_command_ends_in_that_sentence(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path))
  argv = ['aot', '--config', 'experiments/var_imagenet256.py:size=d16',
          '--topology', 'v5e:4x4']  # fmt: skip
  assert cli.main(argv) == 2
  assert "pip install 'varjax[tpu]'" in capsys.readouterr().err


def test_gpus_cannot_be_compiled_for():
  with pytest.raises(errors.ConfigError, match='only TPUs'):
    target.devices(topology.parse('h100:8'))


def test_versions_name_what_compiles():
  found = target.versions()
  assert found['jax']
  assert found['jaxlib']


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
target.prepare()
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
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip("libtpu is not installed; pip install 'varjax[tpu]'")
  done = subprocess.run(
    [sys.executable, '-c', _REAL], capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stderr

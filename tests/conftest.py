"""Strict settings for every test: one CPU backend, exact products."""

import atexit
from collections.abc import Iterator
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Eight virtual devices, so that sharded paths are tested on any machine. And
# less work for LLVM: tests compile much and run little, and the whole suite
# takes 19 minutes of CPU time in place of 27.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0',
)

# Compiled programs are shared by the tests of one session and no other: its
# first process makes the folder and takes it away, its workers inherit it.
if 'VARJAX_CACHE' not in os.environ:
  os.environ['VARJAX_CACHE'] = tempfile.mkdtemp(prefix='varjax-')
  atexit.register(shutil.rmtree, os.environ['VARJAX_CACHE'], ignore_errors=True)

import jax
import pytest

from varjax import compilation, sharding

jax.config.update('jax_default_matmul_precision', 'highest')
jax.config.update('jax_numpy_rank_promotion', 'raise')

compilation.enable_cache()

_SHARED = pathlib.Path(
  os.environ.get(
    'VARJAX_SHARED', pathlib.Path(__file__).resolve().parents[2] / 'shared'
  )
)


def _shared_folder(name: str) -> pathlib.Path:
  folder = _SHARED / name
  if not folder.is_dir():
    pytest.skip(f'{folder} is absent; set VARJAX_SHARED to its parent')
  return folder


@pytest.fixture(scope='session')
def parity_dir() -> pathlib.Path:
  """Outputs of the official PyTorch code, where they are at hand."""
  return _shared_folder('parity')


@pytest.fixture(scope='session')
def scaling_data_dir() -> pathlib.Path:
  """Public scaling-law measurements, where they are at hand."""
  return _shared_folder('scaling_data')


@pytest.fixture(scope='module')
def one_device() -> Iterator[None]:
  """Meshes of one device: sharding has its own tests, and compiles longer."""
  with pytest.MonkeyPatch.context() as patch:
    make_mesh = sharding.make_mesh
    patch.setattr(
      sharding,
      'make_mesh',
      lambda spec, *_: make_mesh(spec, jax.devices()[:1]),
    )
    yield

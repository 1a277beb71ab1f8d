"""The train step through the CUDA compiler, without a GPU."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from varjax import topology
from varjax.aot import target

H100 = topology.parse('h100:1')
ROOT = pathlib.Path(__file__).parents[2]


def _aot(tmp_path, *argv, config='experiments/var_imagenet256.py:size=d12'):
  # A process of its own: the plug-in prints, and JAX starts as in the tool.
  path = os.pathsep.join([str(ROOT), *sys.path])
  return subprocess.run(
    [sys.executable, '-m', 'varjax', 'aot', '--config', config, '--json',
     str(tmp_path / 'aot.json'), *argv],
    capture_output=True, text=True, timeout=600, cwd=ROOT,
    env={**os.environ, 'VARJAX_CACHE': str(tmp_path), 'PYTHONPATH': path,
         'XLA_FLAGS': ''},
  )  # fmt: skip


@pytest.mark.slow
def test_a_train_step_is_compiled_for_gpus(tmp_path):
  if not target.installed(H100):
    pytest.skip(target.compiler_of(H100).INSTALL)
  one = _aot(tmp_path, '--topology', 'h100:1', '--config.batch_size=32')
  assert one.returncode == 0, one.stderr
  found = json.loads((tmp_path / 'aot.json').read_text())
  assert found['compiled']['collectives'] == {}
  # The analytic model is of arrays that must be there; the compiler adds
  # what is alive beside them.
  assert 0.5 < found['estimate_bytes'] / found['compiled']['used_bytes'] < 1.5
  eight = _aot(tmp_path, '--topology', 'h100:8', '--mesh=1,8,1',
               '--config.batch_size=256')  # fmt: skip
  assert eight.returncode == 0, eight.stderr
  found = json.loads((tmp_path / 'aot.json').read_text())
  assert found['compiled']['collectives']['all-gather']['count'] > 0
  whole = _aot(tmp_path, '--topology', 'h100:1', '--config.batch_size=768',
               '--config.model.remat=none')  # fmt: skip
  assert whole.returncode == 5
  assert 'its peak is above what JAX takes' in whole.stderr


@pytest.mark.slow
def test_element_wise_kernels_read_and_write_once(tmp_path):
  if not target.installed(H100):
    pytest.skip(target.compiler_of(H100).INSTALL)
  layers, images, width = 2, 32, 768
  done = _aot(tmp_path, '--topology', 'h100:1', '--config.batch_size=32',
              '--config.model.depth=2', '--config.model.remat=none',
              '--config.model.scan=false',
              '--config.model.attention=flash')  # fmt: skip
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'aot.json').read_text())
  stream = images * 680 * width * 2  # bfloat16
  moved, by_library = (
    {
      (part['step'], part['place']): part['bytes']
      for part in found['compiled']['parts']
      if part['kind'] == kind
    }
    for kind in ('element-wise', 'product')
  )
  # GELU: one array of four times the width in, one out.
  assert moved['forward', 'blocks/mlp'] == layers * 8 * stream
  # Its derivative and the gradient of the bias in front of it are one
  # kernel: two arrays in, one out.
  backward = moved['backward', 'blocks/mlp/fc1'] / (layers * 12 * stream)
  assert 1 <= backward < 1.01
  # Our kernels: streams in and out, and little else. A norm alone, and after
  # a residual sum; attention to one array of queries, keys and values.
  for step, kernel, streams in (
    ('forward', 'modulate_forward', 2 + 4),
    ('backward', 'modulate_backward', 4 + 6),
    ('forward', 'attention/flash_forward', 4),
    ('backward', 'attention/flash_dq', 5),
    ('backward', 'attention/flash_dkv', 4 + 3),
  ):
    found = by_library[step, f'blocks/{kernel}'] / (layers * streams * stream)
    assert 1 <= found < 1.05, kernel


@pytest.mark.slow
@pytest.mark.parametrize('program', ['encode', 'decode'])
def test_a_tokenizer_is_compiled_for_gpus(tmp_path, program):
  if not target.installed(H100):
    pytest.skip(target.compiler_of(H100).INSTALL)
  done = _aot(tmp_path, '--topology', 'h100:1', '--program', program,
              '--batch', '64', '--config.tokenizer.compute_dtype=bfloat16',
              config='experiments/msvq_imagenet.py')  # fmt: skip
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'aot.json').read_text())
  # Convolutions are calls of cuDNN, which needs no device to be chosen.
  roots = {
    part['place'].partition('/')[0]
    for part in found['compiled']['parts']
    if part['kind'] == 'product'
  }
  assert f'{program}r' in roots
  assert found['roofline']['hbm_bytes'] > found['analytic']['hbm_bytes']
  # Statistics of normalisations in one pass; two were a quarter of it all.
  statistics = sum(
    part['bytes']
    for part in found['compiled']['parts']
    if part['place'].endswith('moments')
  )
  assert 0.1 < statistics / found['roofline']['hbm_bytes'] < 0.2


@pytest.mark.slow
def test_a_sampler_is_compiled_for_gpus(tmp_path):
  if not target.installed(H100):
    pytest.skip(target.compiler_of(H100).INSTALL)
  done = _aot(tmp_path, '--topology', 'h100:1', '--program', 'sample',
              '--batch', '1', '--compute', 'bfloat16',
              config='experiments/var_imagenet256.py:size=d6')  # fmt: skip
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'aot.json').read_text())
  places = {part['place'] for part in found['compiled']['parts']}
  assert any(place.startswith('blocks/attention') for place in places)
  assert found['compiled']['fits']

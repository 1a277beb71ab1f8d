"""Products of float8 reach the library that has them, by XLA's compiler."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from varjax import topology
from varjax.aot import target

FLOAT8, PLAIN = '__cublas$lt$matmul$f8', '__cublas$lt$matmul'
ROOT = pathlib.Path(__file__).parents[2]


def _calls(**model):
  slice_ = topology.parse('h100:1')
  if not target.installed(slice_):
    pytest.skip(target.compiler_of(slice_).INSTALL)
  script = pathlib.Path(__file__).with_name('float8_calls.py')
  path = os.pathsep.join([str(ROOT), *sys.path])
  done = subprocess.run(
    [sys.executable, script, json.dumps(model)],
    capture_output=True, text=True, timeout=600, cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': path, 'XLA_FLAGS': ''},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
  ('model', 'times'),
  [
    # A product and its two gradients, in one scanned block.
    ({'remat': 'none', 'unroll': 1}, 3),
    ({'remat': 'light', 'unroll': 1}, 3),
    ({'remat': 'dots', 'unroll': 1}, 3),
    # Once more to be found again.
    ({'remat': 'full', 'unroll': 1}, 4),
    ({'remat': 'light', 'scan': False}, 3 * 3),
    ({'remat': 'none', 'unroll': 1, 'mlp': 'swiglu', 'norm': 'rmsnorm'}, 3),
  ],
  ids=str,
)
def test_every_product_of_a_block_is_a_call_in_float8(model, times):
  found = _calls(products='fp8', **model)
  assert found[FLOAT8] == dict.fromkeys(('qkv', 'proj', 'fc1', 'fc2'), times)
  # What is left: attention, by XLA's own products here.
  assert set(found.get(PLAIN, {})) <= {'other'}


@pytest.mark.slow
def test_by_default_there_is_none():
  found = _calls(remat='light')
  assert FLOAT8 not in found
  assert {'qkv', 'proj', 'fc1', 'fc2'} <= set(found[PLAIN])

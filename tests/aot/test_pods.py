"""The layouts of experiments/var_pod.py, and the table in the docs."""

import dataclasses
import importlib.util
import pathlib
import sys

import pytest

from varjax import config, errors, memory, topology
from varjax.spec import MeshSpec

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINES = ROOT / 'docs' / 'pods.jsonl'
PODS = config.load_module(str(ROOT / 'experiments' / 'var_pod.py'), 'SLICES')


@pytest.fixture(scope='module')
def pod_table():
  path = ROOT / 'benchmarks' / 'pod_table.py'
  module_spec = importlib.util.spec_from_file_location('pod_table', path)
  module = importlib.util.module_from_spec(module_spec)
  sys.modules['pod_table'] = module
  module_spec.loader.exec_module(module)
  yield module
  del sys.modules['pod_table']


def _run(size, where):
  path = f'{ROOT}/experiments/var_pod.py:size={size},slice={where}'
  return config.to_spec(config.load(path), path)


@pytest.mark.parametrize(('size', 'where'), list(PODS.SLICES))
def test_a_layout_fills_its_slice_and_keeps_the_recipe(size, where):
  run = _run(size, where)
  slice_ = topology.parse(where.replace('-', ':', 1))
  data, fsdp, tensor = memory.mesh_shape(run.mesh, slice_.count)
  micro = run.batch_size // run.optim.accumulate
  assert micro % (data * fsdp) == 0
  assert run.model.width % fsdp == 0
  assert run.model.heads % tensor == 0
  file = 'var_imagenet512.py' if size == 'd36-s' else 'var_imagenet256.py'
  path = f'{ROOT}/experiments/{file}:size={size}'
  paper = config.to_spec(config.load(path), path)
  same = dataclasses.replace(
    run,
    name=paper.name,
    mesh=MeshSpec(1, -1, 1),
    model=dataclasses.replace(run.model, remat=paper.model.remat),
    optim=dataclasses.replace(run.optim, accumulate=1),
  )
  assert same == paper


def test_other_pairs_are_refused():
  with pytest.raises(errors.ConfigError, match='d30@v5p-4x4x4'):
    _run('d30', 'v5e-2x2')


def test_the_compute_optimal_length_is_the_optimum_of_its_budget(pod_table):
  from varjax.scaling import design, optimum

  law = design.assumed_law()
  tokens = pod_table.optimal_tokens(law, 3e8)
  n, d, _ = optimum.optimum(law.params, 6 * 3e8 * tokens)
  assert (n, d) == pytest.approx((3e8, tokens))


def test_the_table_of_the_docs_is_that_of_its_lines(pod_table):
  rows = pod_table.read(LINES)
  page = (ROOT / 'docs' / 'pods.md').read_text()
  assert pod_table.table(rows) in page
  pairs = {(r['size'], r['topology'].replace(':', '-', 1)) for r in rows}
  assert pairs <= set(PODS.SLICES)
  for row in rows:
    found = row['compiled']
    assert found['versions']['libtpu']
    assert found['fits'] == (found['memory'] is not None)
    run = _run(row['size'], row['topology'].replace(':', '-', 1))
    assert row['batch_size'] == run.batch_size
    assert row['remat'] == run.model.remat
    # The memory model is held to what the compiler found.
    count = topology.parse(row['topology']).count
    estimate = memory.memory_estimate(run, count).total
    if found['fits']:
      assert estimate == pytest.approx(found['used_bytes'], rel=0.1)

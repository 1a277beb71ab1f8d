import importlib.util
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import errors, metrics
from varjax import profiler as profilers


def test_rows_are_plain_json(tmp_path):
  writer = metrics.MetricWriter(tmp_path)
  writer.write(1, {'loss': jnp.float32(0.1), 'images': np.int64(2**40)})
  writer.write(
    2, {'loss': float('nan'), 'scales': jnp.array([1.0, jnp.inf])}, 'eval'
  )
  # Readable while the run goes on.
  assert len(metrics.read(tmp_path)) == 2
  writer.close()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(lines[0]) == {
    'step': 1,
    'train/loss': pytest.approx(0.1),
    'train/images': 2**40,
  }
  assert json.loads(lines[1]) == {
    'step': 2,
    'eval/loss': None,
    'eval/scales': [1.0, None],
  }


def test_resume_supersedes_later_rows_and_fragments(tmp_path):
  writer = metrics.MetricWriter(tmp_path)
  for step in range(1, 6):
    writer.write(step, {'loss': step})
  writer.close()
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 6, "tra')
  writer = metrics.MetricWriter(tmp_path, resume_step=3)
  writer.write(4, {'loss': 40})
  writer.close()
  rows = metrics.read(tmp_path)
  assert [r['train/loss'] for r in rows] == [1, 2, 3, 40]
  assert {p.name for p in tmp_path.iterdir()} == {'metrics.jsonl'}


def test_no_file_is_no_rows(tmp_path):
  assert metrics.read(tmp_path) == []


def test_tensorboard_without_tensorflow_is_refused(tmp_path, monkeypatch):
  found = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name: None if name == 'tensorflow' else found(name),
  )
  assert not metrics.tensorboard_available()
  with pytest.raises(errors.ConfigError, match=r'varjax\[tensorboard\]'):
    metrics.MetricWriter(tmp_path / 'run', tensorboard=True)
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_tensorboard_event_files(tmp_path):
  if not metrics.tensorboard_available():
    pytest.skip('needs clu and tensorflow')
  writer = metrics.MetricWriter(tmp_path, tensorboard=True)
  writer.write(1, {'loss': 1.0, 'scales': np.array([1.0, 2.0])})
  writer.close()
  assert list((tmp_path / 'tensorboard').glob('events.*'))


def test_parameter_overview_of_boxed_and_abstract_params():
  def init(rng):
    kernel = nn.with_logical_partitioning(
      nn.initializers.ones, ('embed', 'mlp')
    )
    return nn.Dense(4, kernel_init=kernel).init(rng, jnp.ones((1, 3)))

  for params in (
    init(jax.random.key(0)),
    jax.eval_shape(init, jax.random.key(0)),
  ):
    text = metrics.parameter_overview(params['params'])
    assert 'kernel' in text
    assert 'Total: 16' in text


def test_profiles_only_the_steps_asked_for(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(
    jax.profiler, 'start_trace', lambda path: calls.append(('start', path))
  )
  monkeypatch.setattr(
    jax.profiler, 'stop_trace', lambda: calls.append(('stop', None))
  )
  profiler = profilers.Profiler(tmp_path, 2, 4)
  seen = []
  for step in range(6):
    profiler.before(step)
    seen.append(len(calls))
  profiler.close()
  assert seen == [0, 0, 1, 1, 2, 2]
  assert [name for name, _ in calls] == ['start', 'stop']
  idle = profilers.Profiler(tmp_path, 0, 0)
  idle.before(0)
  idle.close()
  assert len(calls) == 2


def test_profile_leaves_a_trace(tmp_path):
  profiler = profilers.Profiler(tmp_path, 0, 1)
  profiler.before(0)
  jax.block_until_ready(jax.jit(jnp.sin)(jnp.ones(8)))
  profiler.close()
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


def test_import_needs_neither_clu_nor_tensorflow():
  code = (
    'import sys, varjax.metrics, varjax.progress, varjax.profiler; '
    "sys.exit(any(m in sys.modules for m in ('clu', 'tensorflow', 'tqdm')))"
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from faults import storage
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from varjax import checkpoint, checksum, errors, sharding
from varjax import spec as specs

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _state(value=0.0):
  params = {
    'dense': {
      'kernel': jnp.arange(64.0).reshape(8, 8) + value,
      'bias': jnp.full((8,), float(value)),
    }
  }
  return {
    'params': params,
    'opt': optax.adam(1e-3).init(params),
    'state': {'hits': jnp.arange(5, dtype=jnp.int32)},
    'step': jnp.asarray(value, jnp.int32),
  }


def _abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
  )


def _save(workdir, *steps, run_id='run', **kwargs):
  found = checkpoint.Checkpoints(workdir, run_id, **kwargs)
  for step in steps:
    found.save(step, _state(step), f'data {step}', {'wall_s': step / 2})
  found.close()


def _restore(workdir, run_id='run'):
  found = checkpoint.Checkpoints(workdir, run_id)
  try:
    return found.restore(_abstract(_state()))
  finally:
    found.close()


def _assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip_keeps_the_newest(tmp_path):
  assert _restore(tmp_path) is None
  assert checkpoint.latest_step(tmp_path) is None
  _save(tmp_path, 3, 6, 9, keep=2)
  restored = _restore(tmp_path)
  assert restored.step == checkpoint.latest_step(tmp_path) == 9
  assert restored.data_state == 'data 9'
  assert restored.meta == {'wall_s': 4.5}
  _assert_equal(restored.state, _state(9))
  steps = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
  assert steps == {'6', '9'}


def test_saving_a_saved_step_again_keeps_it(tmp_path):
  found = checkpoint.Checkpoints(tmp_path, 'run')
  found.save(2, _state(2))
  found.save(2, _state(5))
  found.wait()
  assert found.latest_step() == 2
  _assert_equal(found.restore(_abstract(_state())).state, _state(2))
  found.close()


def test_arrays_may_be_donated_while_the_save_goes_on(tmp_path):
  double = jax.jit(lambda s: jax.tree.map(lambda x: 2 * x, s), donate_argnums=0)
  state = jax.tree.map(jnp.copy, _state(7))
  found = checkpoint.Checkpoints(tmp_path, 'run')
  found.save(1, state)
  for _ in range(3):
    state = double(state)
  jax.block_until_ready(state)
  found.wait()
  _assert_equal(found.restore(_abstract(_state())).state, _state(7))
  found.close()


def test_another_run_is_refused(tmp_path):
  _save(tmp_path, 1, run_id='mine')
  with pytest.raises(errors.CheckpointError, match='run mine, not to yours'):
    _restore(tmp_path, run_id='yours')


@pytest.mark.parametrize(
  'damage', [storage.truncate, storage.flip_bit, pathlib.Path.unlink]
)
def test_damage_falls_back_and_says_so(tmp_path, damage, capsys):
  _save(tmp_path, 1, 2)
  damage(storage.largest_file(tmp_path / 'checkpoints' / '2' / 'state'))
  restored = _restore(tmp_path)
  assert restored.step == 1
  _assert_equal(restored.state, _state(1))
  assert 'checkpoints/2 cannot be read' in capsys.readouterr().out
  # Set aside, so that the run can save step 2 again.
  assert (tmp_path / checkpoint.CORRUPT_FOLDER / '2').is_dir()
  _save(tmp_path, 2)
  assert _restore(tmp_path).step == 2


def test_damaged_header_falls_back(tmp_path):
  _save(tmp_path, 1, 2)
  (tmp_path / 'checkpoints' / '2' / 'meta' / 'metadata').write_text('{"ru')
  assert _restore(tmp_path).step == 1


def test_never_restarts_when_every_step_is_damaged(tmp_path):
  _save(tmp_path, 1, 2)
  for step in '12':
    storage.truncate(
      storage.largest_file(tmp_path / 'checkpoints' / step / 'state')
    )
  with pytest.raises(errors.CheckpointError, match='none of the 2'):
    _restore(tmp_path)
  assert checkpoint.latest_step(tmp_path) == 2


def test_other_shapes_are_refused(tmp_path):
  _save(tmp_path, 1)
  state = _state()
  state['params']['dense']['kernel'] = jnp.zeros((8, 4))
  found = checkpoint.Checkpoints(tmp_path, 'run')
  with pytest.raises(errors.CheckpointError, match='none of the 1'):
    found.restore(_abstract(state))
  found.close()


def test_unwritable_folder_is_one_sentence(tmp_path, monkeypatch):
  found = checkpoint.Checkpoints(tmp_path, 'run')

  def full(*args, **kwargs):
    del args, kwargs
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(found._manager, 'save', full)
  with pytest.raises(errors.NotWritten, match='No space left'):
    found.save(1, _state())
  found.close()


def test_restores_onto_another_mesh(tmp_path):
  two = sharding.make_mesh(specs.MeshSpec(), jax.devices()[:2])
  eight = sharding.make_mesh(specs.MeshSpec(data=2, fsdp=4))

  def place(mesh, spec):
    return lambda x: jax.device_put(
      x, NamedSharding(mesh, spec if x.ndim else PartitionSpec())
    )

  state = {'params': _state(4)['params']}
  found = checkpoint.Checkpoints(tmp_path, 'run')
  found.save(1, jax.tree.map(place(two, PartitionSpec('data')), state))
  found.wait()
  wanted = jax.tree.map(place(eight, PartitionSpec('fsdp')), state)
  restored = found.restore(_abstract(wanted)).state
  found.close()
  _assert_equal(restored, state)
  kernel = restored['params']['dense']['kernel']
  assert kernel.sharding.mesh == eight
  assert kernel.sharding.spec == PartitionSpec('fsdp')
  assert checkpoint.load_params(tmp_path, ('params',)).keys() == {'params'}


def test_load_params_reads_only_what_is_asked(tmp_path):
  _save(tmp_path, 1, 2)
  found = checkpoint.load_params(tmp_path)
  assert found.keys() == {'params', 'state'}
  assert all(type(x) is np.ndarray for x in jax.tree.leaves(found))
  _assert_equal(found['params'], jax.device_get(_state(2)['params']))
  with pytest.raises(errors.CheckpointError, match=r'no entry .ema.; it has'):
    checkpoint.load_params(tmp_path, ('ema',))
  with pytest.raises(errors.CheckpointError, match='no finished checkpoint'):
    checkpoint.load_params(tmp_path / 'nothing')
  storage.truncate(
    storage.largest_file(tmp_path / 'checkpoints' / '2' / 'state')
  )
  with pytest.raises(errors.CheckpointError, match='cannot be read'):
    checkpoint.load_params(tmp_path)


def test_fingerprint_is_the_same_everywhere():
  draw = np.random.default_rng(0).normal(size=(16, 8))
  mesh = sharding.make_mesh(specs.MeshSpec(data=2, fsdp=4))
  for dtype in ('float32', 'bfloat16', 'int32', 'bool', 'uint8'):
    host = np.asarray(jnp.asarray(draw, dtype))
    spread = jax.device_put(host, sharding.batch_sharding(mesh))
    want = checksum.fingerprints({'a': host})
    assert checksum.fingerprints({'a': spread}) == want
    assert checksum.fingerprints({'a': jnp.asarray(host)}) == want
    assert want['a'] != 0


# Saves until it is killed; the parent kills it in the middle of a save.
_VICTIM = """
import sys
import jax
import jax.numpy as jnp
from varjax import checkpoint

found = checkpoint.Checkpoints(sys.argv[1], 'run', keep=3)
for step in range(1, 1000):
  found.save(step, {'x': jnp.full((1500, 1000), float(step))}, str(step))
  print(step, flush=True)
"""


def test_kill_during_a_save_leaves_the_step_before(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', _VICTIM, str(tmp_path)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, 'XLA_FLAGS': ''},
  )
  try:
    started = [int(process.stdout.readline()) for _ in range(3)]
    time.sleep(0.02)
  finally:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
  assert started == [1, 2, 3]
  # Starting the save of step 3 means that step 2 was complete.
  abstract = _abstract({'x': jnp.zeros((1500, 1000))})
  found = checkpoint.Checkpoints(tmp_path, 'run')
  restored = found.restore(abstract)
  assert restored.step >= 2
  assert restored.data_state == str(restored.step)
  np.testing.assert_array_equal(restored.state['x'], float(restored.step))
  found.save(restored.step + 1, restored.state, 'next')
  found.close()
  names = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
  assert all(name.isdigit() for name in names)
  assert checkpoint.latest_step(tmp_path) == restored.step + 1


def test_header_is_readable_json(tmp_path):
  _save(tmp_path, 1)
  file = tmp_path / 'checkpoints' / '1' / 'meta' / 'metadata'
  header = json.loads(file.read_text())
  assert header['run_id'] == 'run'
  assert 'params/dense/kernel' in header['fingerprints']

"""How a process finds the others; what it does with them is elsewhere."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import distributed, errors
from varjax.distributed import Group


def _args(*argv):
  parser = argparse.ArgumentParser()
  distributed.add_arguments(parser)
  return parser.parse_args(argv)


JAX = {
  'JAX_COORDINATOR_ADDRESS': 'host7:1234',
  'JAX_PROCESS_ID': '3',
  'JAX_NUM_PROCESSES': '4',
}
BY_HAND = ('--coordinator=a:1', '--process_id=0', '--num_processes=2')


@pytest.mark.parametrize(
  ('argv', 'environ', 'found'),
  [
    ((), {}, None),
    (BY_HAND, {}, Group('the flags', 'a:1', 0, 2)),
    (BY_HAND, JAX, Group('the flags', 'a:1', 0, 2)),
    ((), JAX, Group('the environment', 'host7:1234', 3, 4)),
    # A batch script of four tasks is one process; its steps are four.
    ((), {'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, None),
    ((), {'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '4'}, Group('slurm')),
    ((), {'SLURM_STEP_NUM_TASKS': '1'}, None),
    ((), {'OMPI_COMM_WORLD_SIZE': '8'}, Group('ompi')),
    ((), {'OMPI_COMM_WORLD_SIZE': '1'}, None),
    # Set on machines that compile for a TPU which they do not have.
    ((), {'TPU_WORKER_HOSTNAMES': 'localhost', 'JAX_PLATFORMS': 'cpu'}, None),
  ],
)
def test_group_is_found(argv, environ, found):
  assert distributed.find(_args(*argv), environ) == found


@pytest.mark.parametrize(
  ('argv', 'environ', 'message'),
  [
    (('--coordinator=a:1',), {}, '--process_id, --num_processes: must be set'),
    (('--process_id=0',), JAX, '--coordinator, --num_processes: must be set'),
    ((), JAX | {'JAX_PROCESS_ID': ''}, 'JAX_PROCESS_ID: must be set'),
    ((), JAX | {'JAX_PROCESS_ID': '4'},
     'JAX_PROCESS_ID=4: must be below JAX_NUM_PROCESSES=4'),
    ((), JAX | {'JAX_PROCESS_ID': 'x'}, 'must be whole numbers'),
    (('--coordinator=a', '--process_id=0', '--num_processes=2'), {},
     '--coordinator=a: must be HOST:PORT'),
    (('--coordinator=a:b', '--process_id=0', '--num_processes=2'), {},
     'must be HOST:PORT'),
  ],
)  # fmt: skip
def test_half_a_group_is_refused(argv, environ, message):
  with pytest.raises(errors.ConfigError, match=message):
    distributed.find(_args(*argv), environ)


def test_one_process_needs_no_group():
  for _ in range(2):
    distributed.start(_args())
  one = ('--coordinator=a:1', '--process_id=0', '--num_processes=1')
  distributed.start(_args(*one))
  assert not distributed.is_group()
  distributed.leave(3)  # does not end this process
  distributed.barrier('nobody')
  assert distributed.gather('text') == ['text']
  assert distributed.on_first(lambda: 'told') == 'told'
  assert distributed.on_first(lambda: None) == ''
  anybody = distributed.AnyProcess()
  assert [anybody({}, False), anybody({}, True)] == [False, True]
  assert anybody.mark(2, True) == {}


def test_a_raised_hand_is_told_one_update_late(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  anybody = distributed.AnyProcess()
  marked = anybody.mark(3, True)
  assert marked.keys() == {distributed.MARK}
  np.testing.assert_array_equal(marked[distributed.MARK], np.ones(3))
  told = []
  for hand in (0.0, 1.0, 0.0):
    values = {'loss': 2.0, distributed.MARK: jnp.float32(hand)}
    told.append(anybody(values, False))
    assert values == {'loss': 2.0}
  assert told == [False, False, True]

"""Nothing is traced or compiled twice: not in a run, a rerun, a sampler."""

import collections
import contextlib

from faults import runs
import jax
import numpy as np
import pytest
import random_pipeline
import tiny
from tiny import run_to_end

from varjax import compilation

pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  return runs.write_world(tmp_path_factory.mktemp('world'))


@contextlib.contextmanager
def _traced():
  """Counts the traces inside, by the name of the function."""
  found = collections.Counter()

  def listen(event, _, fun_name='', **__):
    if event == '/jax/core/compile/jaxpr_trace_duration':
      found[fun_name] += 1

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def test_a_run_traces_each_program_once_and_the_next_compiles_none(
  world, tmp_path
):
  """Six updates and two evaluations are two programs."""
  run = tiny.var_run(*world)
  with _traced() as first:
    run_to_end(run, tmp_path / 'first')
  before = compilation.cache_use()
  with _traced() as second:
    run_to_end(run, tmp_path / 'second')
  after = compilation.cache_use()
  for found in (first, second):
    assert found['update'] == found['evaluate'] == 1
  asked = after.requests - before.requests
  assert asked >= 2
  assert after.hits - before.hits == asked


def test_samples_of_one_shape_are_traced_once(tmp_path):
  pipe = random_pipeline.make(tmp_path)
  with _traced() as found:
    labels = np.asarray([0, 1])
    images = [pipe.sample(labels, jax.random.key(i))[0] for i in (0, 1)]
  assert found['draw'] == 1
  assert np.any(np.asarray(images[0]) != np.asarray(images[1]))

"""Trials of a sweep share one compiled update."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import tiny

from varjax import compilation, schedule, sharding, step
from varjax.aot import abstract
from varjax.spec import MeshSpec

NOWHERE = pathlib.Path('nowhere')
# All that trials differ in most often, and the length of the run.
OTHER = {
  'seed': 3,
  'ema': 0.9,
  'total.steps': 60,
  'optim.lr': 3e-4,
  'optim.weight_decay': 0.1,
  'optim.weight_decay_end': 0.2,
  'optim.beta1': 0.8,
  'optim.beta2': 0.99,
  'optim.eps': 1e-6,
  'optim.clip_norm': 1.0,
  'optim.warmup.steps': 5,
  'optim.warmup_start': 0.1,
  'optim.final': 0.01,
}
ADVERSARIAL = {
  'reconstruct.adversarial.discriminator': 'patch',
  'reconstruct.adversarial.ch': 4,
  'reconstruct.adversarial.layers': 1,
  'reconstruct.adversarial.start.steps': 2,
}


def _lowered(run):
  mesh = sharding.make_mesh(MeshSpec(), jax.devices()[:1])
  program = step.Program(run, schedule.resolve_run(run, 30), mesh)
  _, stage = program.task.stages(program.steps)[-1]
  arguments = program.abstract, abstract.frozen(run, mesh)
  arguments += abstract.batch(run, mesh), program.abstract_hyper
  with sharding.use_mesh(mesh):
    return program.jitted(stage).lower(*arguments)


@pytest.fixture(scope='module')
def var():
  return tiny.var_run(NOWHERE, NOWHERE, NOWHERE, ema=0.5)


@pytest.fixture(scope='module')
def lowered(var):
  return _lowered(var)


def test_trials_are_compiled_once(lowered):
  """The text of the update is one, and the cache serves the second trial."""
  other = tiny.var_run(NOWHERE, NOWHERE, NOWHERE, **OTHER)
  again = _lowered(other)
  assert again.as_text() == lowered.as_text()
  before = compilation.cache_use()
  lowered.compile()
  first = compilation.cache_use()
  again.compile()
  second = compilation.cache_use()
  assert first.requests == before.requests + 1
  assert second.requests == first.requests + 1
  assert second.hits == first.hits + 1


@pytest.mark.parametrize(
  'change',
  [
    {'optim.clip_norm': 0.0},
    {'optim.schedule': 'cos'},
    {'optim.moments_dtype': 'bfloat16'},
  ],
  ids=lambda change: next(iter(change)),
)
def test_what_shapes_the_program_is_no_argument(var, lowered, change):
  """The test above compares texts that tell programs apart."""
  ((key, value),) = change.items()
  optim = dataclasses.replace(var.optim, **{key.partition('.')[2]: value})
  changed = _lowered(dataclasses.replace(var, optim=optim))
  assert changed.as_text() != lowered.as_text()


def test_numbers_are_those_of_the_run():
  run = tiny.var_run(NOWHERE, NOWHERE, NOWHERE, **OTHER)
  mesh = sharding.make_mesh(MeshSpec(), jax.devices()[:1])
  steps = schedule.resolve_run(run, 30)
  hyper = step.Program(run, steps, mesh).hyper
  assert jax.random.key_data(hyper.key).tolist() == [0, 3]
  numbers = hyper.optim['main']
  for name in ('beta1', 'beta2', 'eps', 'clip_norm'):
    assert getattr(numbers, name) == np.float32(getattr(run.optim, name))
  assert numbers.peak == np.float32(3e-4)
  assert numbers.ramp.warmup == 5
  assert numbers.decay.end == np.float32(0.2)
  assert hyper.ema == np.float32(0.9)


def test_both_networks_of_stage_1_are_shared():
  sizes = {**ADVERSARIAL, 'ema': 0.5}
  one = tiny.tokenizer_run(NOWHERE, **sizes)
  gan = {'reconstruct.adversarial.optim.lr': 1e-5}
  # The stages of the adversarial loss are steps of the program.
  other = {**sizes, **OTHER, **gan, 'total.steps': 4}
  other = tiny.tokenizer_run(NOWHERE, **other)
  assert _lowered(other).as_text() == _lowered(one).as_text()


def test_an_evaluation_is_shared_where_it_draws_nothing(var):
  """The likelihood of an exact order; others draw from the run's seed."""
  texts = set()
  for seed in (0, 3):
    run = dataclasses.replace(var, seed=seed)
    mesh = sharding.make_mesh(MeshSpec(), jax.devices()[:1])
    program = step.Program(run, schedule.resolve_run(run, 30), mesh)
    state = program.abstract
    batch, frozen = abstract.batch(run, mesh), abstract.frozen(run, mesh)
    with sharding.use_mesh(mesh):
      lowered = jax.jit(program.task.eval_fn).lower(
        state.params, state.task_state, frozen, batch
      )
    texts.add(lowered.as_text())
  assert len(texts) == 1

"""Accounts of runs in other orders than next-scale: right, or refused."""

import dataclasses

from flax.core import meta
import jax
import pytest

from varjax import flops, memory, progressive, schedule
from varjax.errors import ConfigError
from varjax.orders import ORDERS, sequence_of
from varjax.scaling import ladder
from varjax.spec import Duration, ModelSpec, OrderSpec, RunSpec, TokenizerSpec
from varjax.tasks import make_task
from varjax.tools import dry_run

TOKENIZER = TokenizerSpec(code_dim=3, vocab=9, scales=(1, 2, 4))
MODEL = ModelSpec(depth=2, width=16, heads=2, num_classes=3)


def run_of(name, **model):
  return RunSpec(
    order=OrderSpec(name),
    tokenizer=TOKENIZER,
    model=dataclasses.replace(MODEL, **model),
    total=Duration(steps=10),
    batch_size=4,
  )


@pytest.mark.parametrize('name', sorted(ORDERS))
@pytest.mark.parametrize(
  'model',
  [{}, {'norm': 'rmsnorm', 'mlp': 'swiglu', 'bias': False, 'l2_norm': False}],
)
def test_every_order_and_backbone_is_counted_exactly(name, model):
  run = run_of(name, **model)
  params, _ = jax.eval_shape(make_task(run).init, jax.random.key(0))
  leaves = jax.tree.leaves(meta.unbox(params))
  sequence = sequence_of(run.order, run.tokenizer)
  counts = flops.parameter_counts(run.model, sequence)
  assert counts.total == sum(leaf.size for leaf in leaves)


def test_work_of_a_run_is_that_of_its_order():
  run = run_of('raster')
  steps = schedule.resolve_run(run, 100)
  sequence = sequence_of(run.order, run.tokenizer)
  work = progressive.work(run, steps, 10, sequence)
  per_image = flops.train_flops_per_image(run.model, sequence)
  assert work.total == 40 * per_image.total
  assert work.tokens == 40 * 21
  assert dry_run.sequence_of(run) == sequence
  scale = run_of('scale')
  assert progressive.work(scale, steps, 10) == progressive.work(
    scale, steps, 10, sequence_of(scale.order, scale.tokenizer)
  )


def test_planning_refuses_an_order_that_it_would_miscount():
  run = run_of('raster')
  steps = schedule.resolve_run(run, 100)
  for refused in (
    lambda: progressive.work(run, steps, 10),
    lambda: memory.memory_estimate(run),
    lambda: ladder.of_run(run),
    lambda: ladder.of_runs([run_of('scale'), run]),
  ):
    with pytest.raises(ConfigError, match='raster'):
      refused()
  sequence = sequence_of(run.order, run.tokenizer)
  assert memory.memory_estimate(run, sequence=sequence).total > 0

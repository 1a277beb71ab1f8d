"""Costs of the residual order, against the products of the real programs."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
import worlds

from varjax import decode_costs, families, flops, memory, params
from varjax.orders import sequence_of
from varjax.sampling import loop
from varjax.spec import (
  Duration,
  ModelSpec,
  OrderSpec,
  RunSpec,
  SampleSpec,
  TokenizerSpec,
)

TOKENIZER = TokenizerSpec(
  'rq', code_dim=3, vocab=9, scales=((2, 3),), codes_per_position=3
)
ADALN = ModelSpec(
  depth=2, width=8, heads=2, num_classes=3, compute_dtype='float32',
  depth_layers=3,
)  # fmt: skip
PLAIN = dataclasses.replace(
  ADALN, norm='rmsnorm', mlp='swiglu', head_factors=2, position='rotary2d'
)
ORDER = OrderSpec('residual')
SEQUENCE = sequence_of(ORDER, TOKENIZER)


def products(jaxpr):
  """FLOPs of all matrix products of a program, loops unrolled."""
  total = 0
  for equation in jaxpr.eqns:
    repeats = equation.params.get('length', 1)
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        total += repeats * products(inner)
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval.shape
      inside = math.prod(left[axis] for axis in contracted)
      total += 2 * inside * math.prod(equation.outvars[0].aval.shape)
  return total


@pytest.mark.parametrize('model', [ADALN, PLAIN])
def test_a_forward_pass_makes_the_products_that_are_counted(model):
  made = worlds.world(ORDER, TOKENIZER, model)
  codes = jnp.zeros((1, 6, 3), jnp.int32)
  example = made.order.example(made.quantizer, codes)
  program = jax.make_jaxpr(made.logits)(example)
  # The dense attention of this back end also computes what is masked.
  dense = flops.hardware_train_flops_per_image(model, SEQUENCE) // 3
  assert products(program.jaxpr) == dense
  visible = flops.forward_flops_per_image(model, SEQUENCE)
  hidden = 4 * 8 * (2 * 15 + 3 * 6 * 3)  # pairs above the two diagonals
  assert visible.total == dense - hidden


@pytest.mark.parametrize('model', [ADALN, PLAIN])
def test_a_generation_makes_the_products_that_are_counted(model):
  made = worlds.world(ORDER, TOKENIZER, model)

  def run(key):
    return loop.run(
      made.model, made.params, made.order, made.quantizer,
      jnp.zeros(1, jnp.int32), key, SampleSpec(cfg=0),
    ).codes  # fmt: skip

  program = jax.make_jaxpr(run)(jax.random.key(0))
  costs = decode_costs.decode_costs(model, SEQUENCE, cached=True)
  # A traced step reads the whole cache of six, and itself.
  surplus = 1 + 5 * 7 - SEQUENCE.visible_pairs
  assert products(program.jaxpr) == costs.flops + 4 * 8 * 2 * surplus
  assert (costs.steps, costs.rows, costs.depth_steps) == (6, 6, 18)


def test_a_loss_in_parts_computes_the_depth_transformer_again():
  whole = flops.hardware_train_flops_per_image(ADALN, SEQUENCE)
  parts = dataclasses.replace(ADALN, loss_chunks=2)
  alone = dataclasses.replace(SEQUENCE, depth_dim=0)
  depth = whole - flops.hardware_train_flops_per_image(ADALN, alone)
  again = flops.hardware_train_flops_per_image(parts, SEQUENCE) - whole
  assert again == depth // 3 + 2 * 6 * 8 * 3 * 9


def test_without_a_cache_the_depth_transformer_costs_the_same():
  cached, anew = (
    decode_costs.decode_costs(ADALN, SEQUENCE, cached=cached)
    for cached in (True, False)
  )
  assert anew.depth_steps == cached.depth_steps
  row = 2 * 2 * 12 * 8 * 8  # of the large transformer
  rows, pairs = anew.rows - cached.rows, anew.pairs - cached.pairs
  assert anew.flops - cached.flops == rows * row + pairs * 4 * 8 * 2


def test_depth_costs_less_than_the_same_codes_in_raster_order():
  raster = sequence_of(OrderSpec('raster'), TOKENIZER)
  one, other = (
    decode_costs.decode_costs(ADALN, sequence, cached=True)
    for sequence in (SEQUENCE, raster)
  )
  assert one.steps * 3 == other.steps
  assert one.pairs < other.pairs / 8
  member = families.member('rq-1.4B')  # The numbers of docs/flops.md.
  flat = dataclasses.replace(member.model, depth=48)
  costs = [
    decode_costs.decode_costs(
      model, sequence_of(order, member.tokenizer), cached=True
    )
    for model, order in ((member.model, ORDER), (flat, OrderSpec('raster')))
  ]
  assert [(c.steps, c.depth_steps) for c in costs] == [(64, 256), (256, 0)]
  assert [f'{c.flops:.3g}' for c in costs] == ['2.53e+11', '7.18e+11']
  single = TokenizerSpec('vq', code_dim=3, vocab=9, scales=((2, 3),))
  assert sequence_of(ORDER, single).targets_per_position == 1


def test_memory_holds_the_activations_of_both_transformers():
  run = RunSpec(
    order=ORDER, tokenizer=TOKENIZER, model=ADALN, total=Duration(steps=1),
    batch_size=1,
  )  # fmt: skip
  both = memory.memory_estimate(run, sequence=SEQUENCE)
  alone = memory.memory_estimate(
    run, sequence=dataclasses.replace(SEQUENCE, depth_dim=0)
  )
  # Six positions of three rows in three layers, which have no AdaLN.
  depth = memory.kept_bytes(params.depth_spec(ADALN))
  assert both.activations - alone.activations == 6 * 3 * 3 * depth
  assert both.params > alone.params

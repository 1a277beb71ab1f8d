"""Phases of an update against closed forms, the program and the compiler."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest

from varjax import errors, flops, optim, phases
from varjax.devices import get
from varjax.phase import serial_seconds, total
from varjax.spec import ModelSpec, OptimSpec, RunSpec, TokenizerSpec
from varjax.tasks.generate import GenerateTask

D16 = RunSpec(model=ModelSpec(), batch_size=64)
TINY = RunSpec(
  tokenizer=TokenizerSpec(
    ch=4, ch_mult=(1, 1), num_res_blocks=1, norm_groups=2, attention=False,
    code_dim=3, vocab=8, scales=(1, 2), phi_count=2,
  ),
  model=ModelSpec(
    depth=3, width=16, heads=2, num_classes=3, compute_dtype='float32',
    attention='xla',
  ),
  batch_size=4,
)  # fmt: skip


def _with(run, **changes):
  return dataclasses.replace(
    run, model=dataclasses.replace(run.model, **changes)
  )


def _by_name(run):
  return {phase.name: phase for phase in phases.train_phases(run)}


@pytest.mark.parametrize('change', [{}, {'mlp': 'swiglu', 'norm': 'rmsnorm'}])
def test_forward_and_backward_are_the_training_flops(change):
  run = _with(D16, **change)
  found = total(phases.train_phases(run))
  work = flops.train_flops_per_image(run.model, run.tokenizer)
  assert found.flops == 64 * work.total


@pytest.mark.parametrize('remat', ['light', 'dots', 'slim', 'full'])
def test_repeated_products_are_those_of_the_hardware_count(remat):
  run = _with(D16, remat=remat, loss_chunks=4)
  found = total(phases.train_phases(run))
  hardware = flops.hardware_train_flops_per_image(
    run.model, run.tokenizer, skips_masked=True
  )
  # AdaLN is outside of the blocks, and the head's is in front of the logits:
  # a thousandth.
  assert found.flops == pytest.approx(64 * hardware, rel=1e-3)


def test_bytes_by_hand():
  found = _by_name(D16)
  rows, width = 64 * 680, 1024
  stream = rows * width * 2
  assert found['norm'].bytes == 16 * 2 * 2 * stream
  assert found['qkv'].bytes == 16 * (4 * stream + 2 * 3 * width**2)
  assert found['activation'].bytes == 16 * 8 * stream
  assert found['loss'].bytes == rows * 4096 * 4
  assert found['attention, backward'].bytes == 2 * found['attention'].bytes
  weights = flops.parameter_counts(D16.model, D16.tokenizer).total
  # Gradients twice; weights and moments in and out.
  assert found['optimiser'].bytes == weights * 4 * (2 + 2 * 3)


def test_a_kernel_that_normalises_reads_lengths_alone():
  found = _by_name(_with(D16, attention='flash'))
  assert found['unit'].bytes == _by_name(D16)['unit'].bytes / 2
  assert 'unit, backward' not in found
  # Turned queries are not those of the product.
  turned = _by_name(_with(D16, attention='flash', position='rotary1d'))
  assert 'unit, backward' in turned


def test_a_fused_sum_hands_the_stream_on():
  found, apart = _by_name(_with(D16, fused='on')), _by_name(D16)
  stream = 64 * 680 * 1024 * 2
  for name in ('norm', 'norm, backward'):
    assert apart[name].bytes - found[name].bytes == 16 * stream
  for name in ('residual', 'residual, backward'):
    assert apart[name].launches - found[name].launches == 16
    assert apart[name].bytes == found[name].bytes


def test_a_phase_takes_the_longer_of_computing_and_moving():
  h100 = get('h100')
  found = _by_name(D16)
  qkv, norm = found['qkv'], found['norm']
  assert qkv.seconds(h100) == qkv.flops / h100.measured_flops
  assert norm.seconds(h100) == norm.bytes / h100.measured_bandwidth
  every = tuple(found.values())
  whole = total(every).seconds(h100)
  assert whole < serial_seconds(every, h100) < 3 * whole
  v5e = get('v5e')  # Nobody has measured it.
  assert qkv.seconds(v5e) == qkv.flops / v5e.peak_flops


def test_parts_of_a_batch_repeat_all_but_the_optimiser():
  halves = dataclasses.replace(D16, optim=OptimSpec(accumulate=2))
  whole, parts = _by_name(D16), _by_name(halves)
  assert parts['optimiser'] == whole['optimiser']
  assert parts['qkv'].flops == whole['qkv'].flops
  assert parts['qkv'].launches == 2 * whole['qkv'].launches


def test_what_is_not_counted_is_refused():
  with pytest.raises(errors.ConfigError, match='transformers only'):
    phases.train_phases(dataclasses.replace(D16, task='reconstruct'))
  with pytest.raises(errors.ConfigError, match='none, light'):
    phases.train_phases(_with(D16, remat='auto'))


# ------------------------------------------------- the program as the referee


@pytest.mark.parametrize('remat', ['none', 'full'])
def test_products_of_the_program_are_those_of_the_phases(remat):
  """Every product of the gradient's program, loops multiplied out."""
  run = _with(TINY, remat=remat)
  task = GenerateTask(run)
  params = jax.eval_shape(lambda: task.init(jax.random.key(0))[0])
  sequence = flops.sequence_of(run.tokenizer)

  def loss(params, inputs, labels):
    logits = task.model.apply({'params': params}, labels, inputs)
    return jnp.sum(jax.nn.logsumexp(logits, axis=-1))

  jaxpr = jax.make_jaxpr(jax.grad(loss))(
    jax.tree.map(lambda x: x, params),
    jax.ShapeDtypeStruct((4, 4, 3), jnp.float32),
    jax.ShapeDtypeStruct((4,), jnp.int32),
  )
  found = _by_name(run)
  counted = total(found.values()).flops
  # Features have no gradient; the reference computes the masked pairs too.
  counted -= found['embed'].flops
  seen = found['attention'].flops * (3 if remat == 'none' else 4)
  counted += seen * (sequence.positions**2 / sequence.visible_pairs - 1)
  assert _product_flops(jaxpr.jaxpr) == pytest.approx(counted, rel=1e-9)


def _product_flops(jaxpr):
  found = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval.shape
      inner = math.prod(left[axis] for axis in contracted)
      found += 2 * equation.outvars[0].aval.size * inner
    times = equation.params.get('length', 1)
    for inside in jax.core.jaxprs_in_params(equation.params):
      found += times * _product_flops(inside)
  return found


@pytest.mark.parametrize('clip', [0.0, 2.0])
def test_the_optimiser_writes_weights_and_moments_and_nothing_else(clip):
  """Clipping, Adam, decay and the sum are one chain without a buffer.

  A CPU's compiler makes one loop of each result; a GPU's makes one kernel of
  all three (docs/performance.md).
  """
  spec = OptimSpec(clip_norm=clip)
  numbers = optim.numbers_of(spec, total_steps=10, batch_size=8, warmup_steps=1)
  made = optim.make_optimizer(spec, numbers)
  params = {'kernel': jax.ShapeDtypeStruct((384, 256), jnp.float32)}

  def update(grads, state, params):
    updates, state = made.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  lowered = jax.jit(update, donate_argnums=(1, 2)).lower(
    params, jax.eval_shape(made.init, params), params
  )
  text = lowered.compile().as_text()
  entry = text[text.index('ENTRY') :]
  assert len(re.findall(r'= f32\[384,256\]\S* fusion\(', entry)) == 3

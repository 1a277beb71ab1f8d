import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import errors, schedule
from varjax import spec as specs

NAMES = ['lin', 'lin0', 'lin00', 'cos', 'exp', 'lin0.8', 'lin0.3']


def _factor(name, steps, **lengths):
  return schedule.lr_factor(name, schedule.ramp(name, **lengths), steps)


def test_official_rows(parity_dir):
  cases = json.loads((parity_dir / 'lr_schedule.json').read_text())
  assert len(cases) >= 7
  for entry in cases:
    case = entry['case']
    rows = np.array(entry['rows'])
    factor = _factor(
      case['sche'],
      rows[:, 0],
      total_steps=case['max_it'],
      warmup_steps=round(case['wp_it']),
      warmup_start=case['wp0'],
      final=case['wpe'],
    )
    np.testing.assert_allclose(case['peak_lr'] * factor, rows[:, 1], rtol=1e-12)
    numbers = schedule.decay(
      total_steps=case['max_it'], start=case['wd'], end=case['wd_end']
    )
    decay = schedule.weight_decay_at(numbers, rows[:, 0])
    np.testing.assert_allclose(decay, rows[:, 2], rtol=1e-12)


@pytest.mark.parametrize('name', NAMES)
def test_shape_of_every_schedule(name):
  steps = np.arange(120)
  values = _factor(
    name, steps, total_steps=100, warmup_steps=10, warmup_start=0.1, final=0.05
  )
  assert values[0] == pytest.approx(0.1)
  assert values[10] == pytest.approx(1.0)
  assert np.all(np.diff(values[:11]) > 0)
  assert np.all(np.diff(values[10:]) <= 1e-12)
  np.testing.assert_allclose(values[99:], 0.05)
  # Continuous: no step falls by more than a few times the mean slope.
  assert np.abs(np.diff(values[10:100])).max() < 0.1


@pytest.mark.parametrize('name', ['lin0', 'cos', 'exp', 'lin0.8'])
def test_numbers_that_are_arguments_are_those_that_are_constants(name):
  """To the bit, so that sharing a program changes no run.

  The constant form is written out as a program would have it, with divisions
  that the compiler turns into products.
  """
  total, warmup, start, final = 50, 7, 0.005, 0.1
  knee = {'lin0': 0.05, 'exp': 0.15, 'lin0.8': 0.8}.get(name, 0.0)

  @jax.jit
  def constants(step):
    p = jnp.clip((step - warmup) / (total - 1 - warmup), 0.0, 1.0)
    rest = jnp.clip((1 - p) / (1 - knee), 0.0, 1.0)
    falling = final + (1 - final) * rest
    if name == 'cos':
      falling = final + (1 - final) * (0.5 + 0.5 * jnp.cos(math.pi * p))
    elif name == 'exp':
      falling = jnp.exp(math.log(final) * (1 - rest))
    elif name == 'lin0.8':
      middle = (1 + final + (1 - final) * (1 - knee)) / 2
      slow = 1 + (middle - 1) * p / knee
      falling = jnp.where(p < knee, slow, final + (middle - final) * rest)
    rising = start + (1 - start) * step / warmup
    part = jnp.clip(step / (total - 1), 0.0, 1.0)
    decay = 0.3 + (0.05 - 0.3) * (0.5 + 0.5 * jnp.cos(math.pi * part))
    return jnp.where(step < warmup, rising, falling), decay

  @jax.jit
  def arguments(ramp, decay, step):
    return (
      schedule.lr_factor(name, ramp, step, jnp),
      schedule.weight_decay_at(decay, step, jnp),
    )

  sizes = {'total_steps': total, 'warmup_steps': warmup, 'final': final}
  ends = {'total_steps': total, 'start': 0.05, 'end': 0.3}
  ramp = schedule.ramp(name, warmup_start=start, real=np.float32, **sizes)
  decay = schedule.decay(real=np.float32, **ends)
  on_host = np.arange(total + 2)
  found = [arguments(ramp, decay, jnp.int32(step)) for step in on_host]
  wanted = [constants(jnp.int32(step)) for step in on_host]
  np.testing.assert_array_equal(np.array(found), np.array(wanted))
  factors = _factor(name, on_host, warmup_start=start, **sizes)
  np.testing.assert_allclose(np.array(found)[:, 0], factors, rtol=1e-5)


def test_degenerate_lengths_are_finite():
  for name in NAMES:
    for total, warmup in [(1, 0), (1, 1), (2, 5), (3, 2)]:
      values = _factor(
        name,
        np.arange(4),
        total_steps=total,
        warmup_steps=warmup,
        final=0.0,
      )
      assert np.all(np.isfinite(values))
      assert np.all((values >= 0) & (values <= 1))
  numbers = schedule.decay(total_steps=1, start=0.05)
  assert schedule.weight_decay_at(numbers, 0) == 0.05


@pytest.mark.parametrize('name', ['linear', 'lin1.5', 'lin-1', '', 'cosine'])
def test_unknown_schedule_names_what_is_allowed(name):
  with pytest.raises(errors.ConfigError, match=r'optim\.schedule=.*lin0'):
    schedule.ramp(name, total_steps=10)


def test_resolve_rounds_images_and_epochs_up():
  sizes = {'batch_size': 32, 'unique_images': 100, 'total_steps': 30}
  resolve = schedule.resolve
  assert resolve(specs.Duration(steps=7), **sizes) == 7
  assert resolve(specs.Duration(images=64), **sizes) == 2
  assert resolve(specs.Duration(images=65), **sizes) == 3
  assert resolve(specs.Duration(epochs=1.0), **sizes) == 4
  assert resolve(specs.Duration(epochs=3.2), **sizes) == 10
  assert resolve(specs.Duration(frac=0.1), **sizes) == 3
  assert resolve(specs.Duration(frac=0.01), **sizes) == 0
  assert resolve(specs.Duration(), **sizes) == 0


def test_resolve_refuses_what_it_cannot_know():
  with pytest.raises(errors.ConfigError, match='number of training images'):
    schedule.resolve(specs.Duration(epochs=1.0), batch_size=8)
  with pytest.raises(errors.ConfigError, match='length of the run'):
    schedule.resolve(specs.Duration(frac=0.5), batch_size=8)


def test_official_warmup_of_a_released_run():
  # d16: 200 epochs of 1,281,167 images at batch 768, warm-up 1/50.
  run = specs.RunSpec(batch_size=768, total=specs.Duration(epochs=200.0))
  steps = schedule.resolve_run(run, 1_281_167)
  assert steps.total == math.ceil(200 * 1_281_167 / 768)
  assert steps.warmup == round(0.02 * steps.total)
  assert steps.log == 50


def test_intervals_are_at_least_one_update_unless_never():
  run = specs.RunSpec(
    total=specs.Duration(steps=3), checkpoint=specs.Duration()
  )
  steps = schedule.resolve_run(run, 1000)
  assert steps.evaluate == 1
  assert steps.checkpoint == 0


def test_due_always_after_the_last_update():
  due = [s for s in range(11) if schedule.due(s, 4, 10)]
  assert due == [4, 8, 10]
  assert [s for s in range(11) if schedule.due(s, 0, 10)] == [10]


def test_peak_scales_with_the_batch_only_when_asked():
  assert schedule.peak_lr(specs.OptimSpec(lr=1e-4), 512) == 1e-4
  scaled = specs.OptimSpec(lr=1e-4, lr_reference_batch=256)
  assert schedule.peak_lr(scaled, 768) == pytest.approx(3e-4)


def test_needs_no_jax():
  code = "import sys, varjax.schedule; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0

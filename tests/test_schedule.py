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


def test_official_rows(parity_dir):
  cases = json.loads((parity_dir / 'lr_schedule.json').read_text())
  assert len(cases) >= 7
  for entry in cases:
    case = entry['case']
    factor = schedule.lr_factor(
      case['sche'],
      total_steps=case['max_it'],
      warmup_steps=round(case['wp_it']),
      warmup_start=case['wp0'],
      final=case['wpe'],
    )
    rows = np.array(entry['rows'])
    np.testing.assert_allclose(
      case['peak_lr'] * factor(rows[:, 0]), rows[:, 1], rtol=1e-12
    )
    decay = schedule.weight_decay_at(
      rows[:, 0],
      total_steps=case['max_it'],
      start=case['wd'],
      end=case['wd_end'],
    )
    np.testing.assert_allclose(decay, rows[:, 2], rtol=1e-12)


@pytest.mark.parametrize('name', NAMES)
def test_shape_of_every_schedule(name):
  steps = np.arange(120)
  values = schedule.lr_factor(
    name, total_steps=100, warmup_steps=10, warmup_start=0.1, final=0.05
  )(steps)
  assert values[0] == pytest.approx(0.1)
  assert values[10] == pytest.approx(1.0)
  assert np.all(np.diff(values[:11]) > 0)
  assert np.all(np.diff(values[10:]) <= 1e-12)
  np.testing.assert_allclose(values[99:], 0.05)
  # Continuous: no step falls by more than a few times the mean slope.
  assert np.abs(np.diff(values[10:100])).max() < 0.1


@pytest.mark.parametrize('name', ['cos', 'exp', 'lin0.8'])
def test_same_inside_jit(name):
  kwargs = {'total_steps': 50, 'warmup_steps': 5, 'final': 0.1}
  steps = np.arange(50)
  inside = jax.jit(schedule.lr_factor(name, xp=jnp, **kwargs))(steps)
  np.testing.assert_allclose(
    inside, schedule.lr_factor(name, **kwargs)(steps), rtol=1e-5
  )


def test_degenerate_lengths_are_finite():
  for name in NAMES:
    for total, warmup in [(1, 0), (1, 1), (2, 5), (3, 2)]:
      values = schedule.lr_factor(
        name, total_steps=total, warmup_steps=warmup, final=0.0
      )(np.arange(4))
      assert np.all(np.isfinite(values))
      assert np.all((values >= 0) & (values <= 1))
  assert schedule.weight_decay_at(0, total_steps=1, start=0.05) == 0.05


@pytest.mark.parametrize('name', ['linear', 'lin1.5', 'lin-1', '', 'cosine'])
def test_unknown_schedule_names_what_is_allowed(name):
  with pytest.raises(errors.ConfigError, match=r'optim\.schedule=.*lin0'):
    schedule.lr_factor(name, total_steps=10)


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

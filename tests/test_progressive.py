"""Rules of progressive training, against the official trainer's formulas."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax import errors, flops, progressive, schedule, validation
from varjax.spec import Duration, ProgressiveSpec, RunSpec

RUN = RunSpec(
  total=Duration(steps=100),
  batch_size=4,
  progressive=ProgressiveSpec(share=0.8, first=4, fade=Duration(steps=5)),
)
STEPS = schedule.resolve_run(RUN, unique_images=50)


def _stages(share, first=4, scales=10, total=100, warmup=10.5):
  return [
    progressive.stage_at(step, warmup, total, share, first, scales)
    for step in range(total)
  ]


def test_off_trains_every_scale():
  assert set(_stages(share=0.0)) == {9}


def test_stages_rise_from_the_first_to_all():
  stages = _stages(share=0.8)
  assert stages[:11] == [4] * 11
  assert set(stages[80:]) == {9}
  assert set(stages) == {4, 5, 6, 7, 8, 9}
  assert stages == sorted(stages)
  # 4 + round((30 - 10.5) / (80 - 10.5) * 5)
  assert stages[30] == 4 + round(19.5 / 69.5 * 5) == 5


def test_a_long_warmup_wins_over_the_end():
  assert progressive.stage_at(9, 10, 10, 0.5, 2, 5) == 2
  assert progressive.stage_at(9, 10, 10, 0.5, 7, 5) == 4


@pytest.mark.parametrize(
  ('stage', 'steps', 'first', 'expected'),
  [
    (5, 1, False, 0.01),
    (5, 50, False, 0.25),
    (5, 400, False, 1.0),
    (5, 1, True, 1.0),
    (9, 1, False, 1.0),
  ],
)
def test_weight_of_the_newest_scale(stage, steps, first, expected):
  found = progressive.newest_weight(stage, 10, steps, 200, first)
  assert found == pytest.approx(expected)


def test_stage_weights():
  weights = progressive.stage_weights((1, 4, 9), 1, newest=0.3)
  np.testing.assert_allclose(weights, [1, 0.3, 0.3, 0.3, 0.3], rtol=1e-6)
  assert progressive.stage_weights((1, 4, 9), 2).sum() == 14


def test_weights_are_the_same_inside_jit():
  inside = jax.jit(
    lambda n: progressive.stage_weights(
      (1, 4, 9),
      1,
      progressive.newest_weight(1, 3, n, 8, False, xp=jnp),
      xp=jnp,
    )
  )
  for steps in (0, 3, 20):
    newest = progressive.newest_weight(1, 3, steps, 8, False)
    outside = progressive.stage_weights((1, 4, 9), 1, newest)
    np.testing.assert_allclose(inside(steps), outside, rtol=1e-6)


def test_stages_of_a_run_cover_it():
  found = progressive.stages(RUN, STEPS)
  assert [stage.last for stage in found] == [4, 5, 6, 7, 8, 9]
  assert found[0].start == 0
  assert found[-1].stop == 100
  for before, after in itertools.pairwise(found):
    assert before.stop == after.start
  for stage in found:
    for step in (stage.start, stage.stop - 1):
      assert stage.last == progressive.stage_at(
        step, STEPS.warmup, 100, 0.8, 4, 10
      )
    assert stage.fade_steps == 5
  plain = dataclasses.replace(RUN, progressive=ProgressiveSpec())
  assert progressive.stages(plain, STEPS) == (progressive.Stage(0, 100, 9),)


def test_work_counts_what_was_trained():
  plain = dataclasses.replace(RUN, progressive=ProgressiveSpec())
  per_image = flops.train_flops_per_image(RUN.model, RUN.tokenizer)
  every = progressive.work(plain, STEPS, 7)
  assert (every.total, every.body) == (
    28 * per_image.total,
    28 * per_image.body,
  )
  assert every.tokens == 28 * 680
  first = progressive.stages(RUN, STEPS)[0]
  early = progressive.work(RUN, STEPS, first.stop)
  assert early.tokens == 4 * first.stop * (1 + 4 + 9 + 16 + 25)
  later = progressive.work(RUN, STEPS, first.stop + 1)
  assert later.tokens - early.tokens == 4 * (55 + 36)
  last = progressive.work(RUN, STEPS, 100).total
  assert last - progressive.work(RUN, STEPS, 99).total == 4 * per_image.total


def test_progression_forces_the_schedule():
  assert progressive.optim_spec(RUN).schedule == 'lin0.8'
  schedule.check_schedule('lin0.8')
  plain = dataclasses.replace(RUN, progressive=ProgressiveSpec())
  assert progressive.optim_spec(plain) is plain.optim


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'progressive': ProgressiveSpec(share=1.0)}, r'share=1.0: must be in'),
    ({'progressive': ProgressiveSpec(share=0.5, first=-1)}, 'first=-1'),
    ({'task': 'reconstruct'}, 'only task=generate'),
  ],
)
def test_impossible_progressions_are_refused(changes, said):
  run = RunSpec(total=Duration(steps=9), data=RUN.data)
  data = dataclasses.replace(run.data, resolution=256)
  run = dataclasses.replace(run, data=data, progressive=RUN.progressive)
  validation.validate(run)
  with pytest.raises(errors.ConfigError, match=said):
    validation.validate(dataclasses.replace(run, **changes))

"""Rules of progressive training, against the official trainer's formulas."""

import numpy as np
import pytest

from varjax.orders import progressive


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

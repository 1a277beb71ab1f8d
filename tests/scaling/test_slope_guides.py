"""Published slopes: drawn only where they are comparable, at that slope."""

import numpy as np
import pandas as pd
import planted
import pytest

from varjax.scaling import (
  figures,
  law_figures,
  reference,
  slope_guides,
  sweepdir,
)
from varjax.tools import report as tool

N = [1e6, 4e6, 9e6, 1e8]


def fit(quantity, form, params, counts='body', x='N'):
  return {
    'name': quantity, 'form': form, 'params': params,
    'x': {'name': x, 'unit': 'parameters'},
    'y': {'name': quantity, 'unit': '', 'kind': 'loss'},
    'n_convention': f'{counts}: in words', 'inputs': {'x': {}},
    'points': [{'x': n, 'y': 5.0, 'used': n < 5e7} for n in N],
    'curve': {'x': [5e5, 2e8]},
  }  # fmt: skip


FLOOR = {'E': 3.0, 'A': 20.0, 'alpha': 0.2}


def test_a_line_has_the_slope_and_the_floor_and_meets_the_middle():
  first, second = slope_guides.guides(fit('L_mean', 'power_floor', FLOOR))
  assert [first.law.params['exponent'], second.law.params['exponent']] == [
    -0.13, -0.14,
  ]  # fmt: skip
  assert first.x[0] == pytest.approx(5e5)
  assert first.x[-1] == pytest.approx(2e8)
  slope = np.polyfit(np.log(first.x), np.log(first.y - 3.0), 1)[0]
  assert slope == pytest.approx(-0.13)
  # The unused run at 1e8 does not move the middle of 1e6 .. 9e6.
  at = np.exp(np.interp(np.log(3e6), np.log(first.x), np.log(first.y - 3)))
  assert at == pytest.approx(20 * 3e6**-0.2, rel=1e-6)


@pytest.mark.parametrize(
  ('given', 'ids'),
  [
    (fit('L_mean', 'power_pinned', FLOOR), ['var_l_mean_n']),
    (fit('L_last', 'power_pinned', FLOOR), ['var_l_last_n']),
    (fit('Err_last', 'power', FLOOR), ['var_err_last_n']),
    # Another floor convention, quantity, input or count of N.
    (fit('L_last', 'power_floor', FLOOR), []),
    (fit('L_mean', 'power', FLOOR), []),
    (fit('Err_mean', 'power_floor', FLOOR), []),
    (fit('L_scale_1', 'power', FLOOR), []),
    (fit('L_mean', 'power_floor', FLOOR, x='C'), []),
    (fit('L_mean', 'power_floor', FLOOR, counts='total'), []),
    (fit('L_mean', 'power_floor', {'E': None}), []),
  ],
)
def test_only_comparable_laws_are_drawn(given, ids):
  assert [g.law.id for g in slope_guides.guides(given)] == ids


def test_every_comparable_law_is_against_n():
  for ids in slope_guides._COMPARABLE.values():
    for key in ids:
      assert reference.law(key).x == 'n'


def test_an_unverified_law_says_so_in_the_figure():
  (found,) = slope_guides.guides(fit('Err_mean', 'power', FLOOR))
  assert 'unverified' in found.label


def _sweep(path):
  runs = pd.DataFrame({'run_id': [], 'task': [], 'val_loss_sem': []})
  return sweepdir.SweepDir(
    path, runs, pd.DataFrame(),
    fit('L_mean', 'power_floor', FLOOR), None, [], [],
  )  # fmt: skip


def test_the_figure_its_data_and_its_caption_hold_them(tmp_path):
  (made,) = law_figures.build(_sweep(tmp_path))[:1]
  rows = made.data[made.data['series'] == 'reference']
  assert set(rows['fit']) == {
    'henighan_image_vq_16x16_n', 'henighan_image_vq_32x32_n',
  }  # fmt: skip
  assert 'only their slope is comparable' in made.caption
  legend = made.figure.axes[0].get_legend().get_texts()
  assert any('slope -0.13' in t.get_text() for t in legend)
  (bare,) = law_figures.build(_sweep(tmp_path), references=False)[:1]
  assert 'reference' not in set(bare.data['series'])
  assert 'slope' not in bare.caption


def test_the_flag_leaves_them_out(tmp_path, monkeypatch, capsys):
  asked = []

  def build(_, references=True):
    asked.append(references)
    return []

  monkeypatch.setattr(figures, 'build', build)
  folder = planted.write(tmp_path / 'sweep', depths=(2, 3, 4), held=(5,))
  assert tool.main([str(folder)]) == 0
  assert tool.main([str(folder), '--no_references']) == 0
  capsys.readouterr()
  assert asked == [True, False]

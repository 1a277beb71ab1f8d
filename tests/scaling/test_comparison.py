"""Published laws: drawn where comparable, and refused with the reason."""

import numpy as np
import pandas as pd
import planted
import pytest

from varjax import records
from varjax.scaling import (
  comparison,
  figures,
  fit_tables,
  law_figures,
  reference,
  sweepdir,
)
from varjax.tools import report as tool

N = [1e6, 4e6, 9e6, 1e8]


def fit(quantity, form, params, counts='body', x='N', flops='C = 6 N D'):
  return {
    'name': quantity, 'form': form, 'params': params,
    'x': {'name': x, 'unit': 'parameters'},
    'y': {'name': quantity, 'unit': '', 'kind': 'loss'},
    'n_convention': f'{counts}: in words', 'flop_convention': flops,
    'inputs': {x.lower(): {}},
    'points': [{'x': n, 'y': 5.0, 'used': n < 5e7} for n in N],
    'curve': {'x': [5e5, 2e8]},
  }  # fmt: skip


FLOOR = {'E': 3.0, 'A': 20.0, 'alpha': 0.2}
VAR_FLOOR = {**FLOOR, 'E': 5.0}


@pytest.fixture(scope='module')
def official():
  """Runs with the tokens of the official tokenizer."""
  rows = [
    planted.run(d, code_vocab=4096, positions_per_image=680) for d in (4, 6)
  ]
  return records.frame([*rows, planted.tokenizer()])


def test_a_line_has_the_slope_and_the_floor_and_meets_the_middle():
  first, second = comparison.drawn(fit('L_mean', 'power_floor', FLOOR))
  assert [first.law.params['exponent'], second.law.params['exponent']] == [
    -0.13, -0.14,
  ]  # fmt: skip
  assert first.how == comparison.SLOPE
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
    (fit('L_mean', 'power_floor', FLOOR, counts='total'), []),
    (fit('L_mean', 'power_floor', {'E': None}), []),
    # Laws of compute, in the FLOPs of their paper only.
    (
      fit('L_mean', 'power_floor', FLOOR, x='C'),
      ['henighan_image_vq_16x16_c', 'henighan_image_vq_32x32_c'],
    ),
    (fit('L_mean', 'power_floor', FLOOR, x='C', flops='counted: all'), []),
    (
      fit('L_mean', 'power_pinned', FLOOR, x='C', flops='C = 1 N D'),
      ['var_l_mean_c'],
    ),
    (fit('L_mean', 'power_pinned', FLOOR, x='C'), []),
    (fit('L_mean', 'power_floor', FLOOR, x='D'), []),
  ],
)
def test_only_comparable_laws_are_drawn(given, ids):
  assert [c.law.id for c in comparison.drawn(given)] == ids


def reason_of(law, given, runs=None):
  (found,) = [c for c in comparison.compare(given, runs) if c.law.id == law]
  return found.how, found.reason


def test_what_is_not_comparable_says_why_and_what_to_fit():
  pinned = fit('L_mean', 'power_pinned', VAR_FLOOR, x='C')
  how, why = reason_of('var_l_mean_c', pinned)
  assert how == comparison.REFUSED
  assert 'C = 1 N D' in why
  assert '--flop_convention knd --k 1' in why
  how, why = reason_of('var_l_mean_n', fit('L_mean', 'power_floor', FLOOR))
  assert '--floor L_mean=5.0' in why
  total = fit('L_mean', 'power_floor', FLOOR, counts='total')
  _, why = reason_of('henighan_image_vq_16x16_n', total)
  assert '--n_convention body' in why
  _, why = reason_of('kaplan_n', fit('L_mean', 'power', FLOOR))
  assert 'text, not image codes' in why


def test_heights_are_compared_where_everything_is_the_same(official):
  given = fit('L_mean', 'power_pinned', VAR_FLOOR)
  (found,) = comparison.drawn(given, official)
  assert found.how == comparison.ABSOLUTE
  expected = 5.0 + (2.5e-9 * found.x) ** -0.2
  np.testing.assert_allclose(found.y, expected, rtol=1e-12)
  assert 'at their own height' in comparison.caption([found])
  # Other tokens, another floor, or nothing known: slopes.
  other = official.assign(code_vocab=512)
  assert reason_of('var_l_mean_n', given, other) == (
    comparison.SLOPE, 'code_vocab is 512 and not 4096',
  )  # fmt: skip
  low = fit('L_mean', 'power_pinned', FLOOR)
  assert '3.0 and not 5.0' in reason_of('var_l_mean_n', low, official)[1]
  assert 'no records' in reason_of('var_l_mean_n', given)[1]
  # The laws of C conflict with those of N in the paper itself.
  compute = fit('L_mean', 'power_pinned', VAR_FLOOR, x='C', flops='C = 1 N D')
  how, why = reason_of('var_l_mean_c', compute, official)
  assert (how, 'conflict' in why) == (comparison.SLOPE, True)
  (line,) = comparison.drawn(compute, official)
  assert 'C = 1 N D' in line.label


def test_every_law_states_its_conventions():
  for law in reference.laws().values():
    assert law.domain, law.id
    assert law.floor in ('none', 'fitted', 'fixed'), law.id
    assert (law.fixed_floor is not None) == (law.floor == 'fixed'), law.id
    if law.form != 'chinchilla':
      fitted = law.floor == 'fitted'
      assert fitted == (law.params.get('E', 0.0) > 0), law.id
    if law.id.startswith('var_') and law.x == 'c':
      assert law.counts == 'C = 1 N D'
      assert law.disputed


def test_the_table_has_the_best_comparison_of_each_law(official):
  fits = [
    fit('L_mean', 'power_floor', FLOOR),
    fit('L_mean', 'power_pinned', VAR_FLOOR),
    {**fit('L_mean', 'chinchilla', {}), 'inputs': {'n': {}, 'd': {}},
     'x': None, 'derived': {'a': 0.5}},
  ]  # fmt: skip
  rows = {
    (r['source'], r['quantity'], r['x']): r['compared']
    for r in fit_tables.published_rows(fits, official)
  }
  by = {
    law.id: rows.get((law.source, law.quantity, ' and '.join(
      ['parameters N'] if law.x == 'n' else [])))
    for law in reference.laws().values()
  }  # fmt: skip
  assert by['var_l_mean_n'] == comparison.ABSOLUTE
  assert by['henighan_image_vq_16x16_n'].startswith(comparison.SLOPE)
  assert by['var_err_mean_n'].endswith('no fit of Err_mean here')
  text = ' '.join(rows.values())
  assert 'exponent a of N* is 0.500 here' in text
  assert 'its tokens are text; a =' in text


def test_an_unverified_law_says_so_in_the_figure():
  (found,) = comparison.drawn(fit('Err_mean', 'power', FLOOR))
  assert 'unverified' in found.label


def _sweep(path):
  runs = pd.DataFrame({'run_id': [], 'task': [], 'val_loss_sem': []})
  return sweepdir.SweepDir(
    path, runs, pd.DataFrame(),
    fit('L_mean', 'power_floor', FLOOR), None, [], [],
  )  # fmt: skip


def test_the_figure_its_data_and_its_caption_hold_them(tmp_path):
  (made,) = law_figures.build(_sweep(tmp_path))[:1]
  rows = made.data[made.data['series'] == 'reference, slope']
  assert set(rows['fit']) == {
    'henighan_image_vq_16x16_n', 'henighan_image_vq_32x32_n',
  }  # fmt: skip
  assert 'only their slope is comparable' in made.caption
  legend = made.figure.axes[0].get_legend().get_texts()
  assert any('slope -0.13' in t.get_text() for t in legend)
  (bare,) = law_figures.build(_sweep(tmp_path), references=False)[:1]
  assert not bare.data['series'].str.startswith('reference').any()
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

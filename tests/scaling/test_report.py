"""The report: complete, self-contained, escaped, and honest when empty."""

import html.parser
import json
import pathlib
import subprocess
import sys

import pandas as pd
import planted
import pytest

from varjax import errors, records
from varjax.scaling import (
  figures,
  notation,
  report,
  run_figures,
  summary,
  sweepdir,
)
from varjax.tools import report as tool


@pytest.fixture(scope='module')
def sweep_dir(tmp_path_factory) -> pathlib.Path:
  return planted.write(tmp_path_factory.mktemp('planted') / 'sweep')


@pytest.fixture(scope='module')
def page(sweep_dir) -> str:
  report.write(sweep_dir)
  return (sweep_dir / 'report.html').read_text()


class _Links(html.parser.HTMLParser):
  """Every address that the page would load, and every id."""

  def __init__(self):
    super().__init__()
    self.loads, self.ids = [], []

  def handle_starttag(self, tag, attrs):
    for key, value in attrs:
      if key in ('src', 'srcset', 'data') or (
        key in ('href', 'xlink:href') and tag != 'a'
      ):
        self.loads.append(value)
      if key == 'id':
        self.ids.append(value)


def test_page_loads_nothing_from_outside(page):
  parser = _Links()
  parser.feed(page)
  outside = [a for a in parser.loads if not a.startswith(('data:', '#'))]
  assert outside == []
  assert '<script' not in page
  assert '@import' not in page
  assert sum(a.startswith('data:image/png') for a in parser.loads) == 2


def test_ids_are_unique_so_that_plots_do_not_share_clip_paths(page):
  parser = _Links()
  parser.feed(page)
  assert len(parser.ids) == len(set(parser.ids))
  targets = [a[1:] for a in parser.loads if a.startswith('#')]
  assert targets
  assert set(targets) <= set(parser.ids)


def test_page_says_the_result(page):
  assert 'α = 0.220 (95 % interval [0.200, 0.240])' in page
  assert 'Held-out d10, 2.0× beyond the fit, measured' in page
  assert '7 of 8 models finished' in page


def test_refusals_warnings_and_failures_are_always_shown(sweep_dir, page):
  markdown = (sweep_dir / 'report.md').read_text()
  for text in (page, markdown):
    assert 'L(N, D): TooFewPoints: L(N, D) needs two data sizes' in text
    assert 'run the ladder at a second number of epochs' in text
    assert 'd2 has the largest residual' in text
    assert 'RESOURCE' in text
    assert 'refused: the minimum lies at an edge' in text
    assert 'too few points are left' in text
    assert 'arXiv 2404.02905' in text
  assert 'no limit in the data' in page


def test_last_error_spans_the_whole_table(page):
  table = page[page.index('<h3 style="margin-top:22px">Models') :]
  header = table[: table.index('</thead>')]
  assert f'colspan="{header.count("<th") - 1}"' in table


def test_text_from_records_is_escaped(tmp_path):
  evil = '<script>alert(1)</script>|$\\frac{'
  folder = planted.write(tmp_path / 'evil', depths=(2, 3, 4), held=(5,))
  records.append(
    folder / 'records.jsonl', planted.run(9, name=evil, device_kind=evil)
  )
  fit = json.loads((folder / 'fit.json').read_text())
  fit['fits'][0]['name'] = fit['name'] = evil
  fit['warnings'] = [evil]
  (folder / 'fit.json').write_text(json.dumps(fit))
  (folder / 'commands.json').write_text(json.dumps([{'command': evil}]))
  report.write(folder)
  page = (folder / 'report.html').read_text()
  assert '<script' not in page
  assert '&lt;script&gt;' in page
  markdown = (folder / 'report.md').read_text()
  outside_code = ''.join(markdown.split('```')[::2])
  assert '<script' not in outside_code
  runs = markdown[markdown.index('## Runs') :]
  row = next(x for x in runs.splitlines() if x.startswith('| &lt;script'))
  columns = row.replace('\\|', '').count('|')
  header = next(x for x in markdown.splitlines() if x.startswith('| run |'))
  assert columns == header.count('|')


def test_every_figure_has_its_data(sweep_dir, page):
  exhibits = figures.build(sweepdir.read(sweep_dir))
  names = [e.name for e in exhibits]
  assert [n for n in names if n.startswith('law')] == [
    'law_1_l_mean_n_with_floor', 'law_2_l_last_n_with_floor',
  ]  # fmt: skip
  assert {'residuals', 'training_curves', 'scale_losses'} <= set(names)
  assert {'isoflop', 'agreement'} <= set(names)
  assert 'tokenizer_psnr' in names
  for exhibit in exhibits:
    table = pd.read_csv(sweep_dir / 'figures' / f'{exhibit.name}.csv')
    assert len(table) == len(exhibit.data) > 0
    assert f'id="{exhibit.name}"' in page
    svg = (sweep_dir / 'figures' / f'{exhibit.name}.svg').read_text()
    assert svg.startswith('<?xml')
  law = pd.read_csv(sweep_dir / 'figures' / 'law_1_l_mean_n_with_floor.csv')
  assert set(law['fit']) == {
    'L_mean(N) with floor', 'L_mean(N) without floor',
  }  # fmt: skip
  held = law[law['series'] == 'holdout']
  assert held['y'].iloc[0] == pytest.approx(held['predicted'].iloc[0], rel=0.01)


def test_report_is_the_same_for_the_same_data(sweep_dir, page):
  report.write(sweep_dir)
  again = (sweep_dir / 'report.html').read_text()
  strip = [
    [line for line in t.splitlines() if 'Written' not in line]
    for t in (page, again)
  ]
  assert strip[0] == strip[1]
  assert not list(sweep_dir.glob('.*.partial'))


def test_markdown_refers_to_files_that_exist(sweep_dir, page):
  del page
  markdown = (sweep_dir / 'report.md').read_text()
  paths = [p.split(')')[0] for p in markdown.split('](')[1:]]
  assert len(paths) >= 10
  assert all((sweep_dir / p).is_file() for p in paths)


def test_stale_figures_go_and_foreign_files_stay(tmp_path):
  folder = tmp_path
  records.append(folder / 'records.jsonl', planted.tokenizer())
  report.write(folder)
  assert (folder / 'figures' / 'tokenizer_psnr.svg').exists()
  (folder / 'figures' / 'mine.csv').write_text('a\n1\n')
  (folder / 'records.jsonl').unlink()
  records.append(
    folder / 'records.jsonl', planted.tokenizer(val_psnr_scales=None)
  )
  report.write(folder)
  assert not (folder / 'figures' / 'tokenizer_psnr.svg').exists()
  assert (folder / 'figures' / 'mine.csv').exists()


def test_missing_parts_are_said(tmp_path):
  folder = planted.write(tmp_path / 's', depths=(2, 3), held=())
  (folder / 'fit.json').unlink()
  (folder / 'curves.jsonl').unlink()
  report.write(folder)
  page = (folder / 'report.html').read_text()
  assert 'No fit.json' in page
  assert 'No curves.jsonl' in page


def test_refused_fit_reports_no_exponent(tmp_path):
  folder = planted.write(tmp_path / 's', depths=(2,), held=())
  fit = {'schema': 1, 'form': 'power', 'params': None, 'fits': [],
         'refusals': [
           {'type': 'TooFewPoints', 'reason': '1 point, 3 are needed',
            'next': 'train more sizes', 'forced': False}]}  # fmt: skip
  (folder / 'fit.json').write_text(json.dumps(fit))
  report.write(folder)
  page = (folder / 'report.html').read_text()
  assert 'TooFewPoints: 1 point, 3 are needed. Next: train more' in page
  assert 'The fit was refused' in page
  assert 'exponent α' not in page


def test_one_bare_record_is_enough(tmp_path):
  records.append(
    tmp_path / 'records.jsonl',
    records.RunRecord(run_id='r1', status='running', task='generate'),
  )
  report.write(tmp_path)
  page = (tmp_path / 'report.html').read_text()
  assert '0 of 1 models finished' in page
  assert 'nan' not in page.lower().replace('finance', '')


def test_tokenizer_only(tmp_path):
  records.append(tmp_path / 'records.jsonl', planted.tokenizer())
  report.write(tmp_path)
  assert 'No model was trained yet' in (tmp_path / 'report.html').read_text()


def test_broken_picture_is_named(tmp_path):
  records.append(tmp_path / 'records.jsonl', planted.tokenizer())
  (tmp_path / 'samples_broken.png').write_bytes(b'not a picture')
  report.write(tmp_path)
  assert 'is not a PNG file' in (tmp_path / 'report.html').read_text()


def test_errors_are_one_sentence(tmp_path):
  with pytest.raises(errors.RecordError, match='no such sweep directory'):
    report.write(tmp_path / 'absent')
  with pytest.raises(errors.RecordError, match='no such record file'):
    report.write(tmp_path)
  records.append(tmp_path / 'records.jsonl', planted.tokenizer())
  (tmp_path / 'fit.json').write_text('{"schema": 1,')
  with pytest.raises(errors.RecordError, match='not JSON'):
    report.write(tmp_path)
  (tmp_path / 'fit.json').write_text('[1]')
  with pytest.raises(errors.RecordError, match='top level must be a dict'):
    report.write(tmp_path)
  assert not (tmp_path / 'report.html').exists()


def test_tool_prints_where_the_page_is(tmp_path, capsys):
  records.append(tmp_path / 'records.jsonl', planted.tokenizer())
  folder = tmp_path
  assert tool.main([str(folder)]) == 0
  assert str(folder / 'report.html') in capsys.readouterr().out


def test_surface_is_drawn_with_its_optimum(tmp_path):
  folder = planted.write(tmp_path / 's', depths=(2, 3, 4), held=())
  points = [
    {'run_id': f'r{n}{d}', 'n': n, 'd': d, 'x': None, 'used': True,
     'y': 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28, 'predicted': 3.0}
    for n in (1e8, 2e8, 4e8, 8e8) for d in (2e9, 2e10)
  ]  # fmt: skip
  fit = {
    'schema': 1, 'kind': 'varjax.fit', 'name': 'L(N, D)', 'x': None,
    'form': 'chinchilla', 'points': points, 'inputs': {'n': {}, 'd': {}},
    'y': {'name': 'loss', 'unit': 'nats per token'},
    'params': {'E': 1.69, 'A': 406.4, 'B': 410.7, 'alpha': 0.34,
               'beta': 0.28},
  }  # fmt: skip
  (folder / 'fit.json').write_text(json.dumps({**fit, 'fits': [fit]}))
  exhibits = {e.name: e for e in figures.build(sweepdir.read(folder))}
  assert len(exhibits['surface_1_l_n_d'].data) == 8
  axis = exhibits['surface_1_l_n_d'].figure.axes[0]
  ridge = next(x for x in axis.lines if x.get_label() == 'compute-optimal')
  n, d = ridge.get_data()
  # At the optimum both terms fall equally fast with compute.
  assert 0.34 * 406.4 * n**-0.34 == pytest.approx(0.28 * 410.7 * d**-0.28)
  assert 'law_1_l_n_d' not in exhibits


def test_plan_is_shown_with_its_warnings(tmp_path):
  records.append(tmp_path / 'records.jsonl', planted.tokenizer())
  sizes = [
    {'name': f'd{d}', 'rung': d, 'n': 1e6 * d**3, 'images': 1e6 / d,
     'tokens': 1e9 / d, 'effective_tokens': 1e9 / d, 'epochs': None,
     'flops_train': 1e18, 'flops_inference': 0.0,
     'loss': 4.0 + 0.01 * (d - 5) ** 2, 'lo': 3.9, 'hi': 4.3,
     'deadweight': 0.02 * (d - 5) ** 2}
    for d in range(2, 9)
  ]  # fmt: skip
  best = {
    **sizes[3], 'params_total': 125_000_000, 'params_body': 1, 'depth': 5,
    'width': 320, 'heads': 5, 'batch_size': 768, 'lr_peak': 3e-4,
    'steps': 260, 'images': 199_680, 'cost': None,
  }  # fmt: skip
  plan = {
    'kind': 'varjax.plan', 'best': best, 'sizes': sizes, 'warnings': ['far'],
    'demand': {'flops': 1e18}, 'machine': None,
    'law': {'name': 'L_mean(N, D)', 'n_convention': 'body'},
  }  # fmt: skip
  (tmp_path / 'plan.json').write_text(json.dumps(plan))
  report.write(tmp_path)
  page = (tmp_path / 'report.html').read_text()
  assert '125,000,000 parameters' in page
  assert '199,680 images' in page
  assert '<b>warning</b>far' in page
  assert (tmp_path / 'figures' / 'plan_deadweight.csv').is_file()
  (tmp_path / 'plan.json').write_text('{}')
  with pytest.raises(errors.RecordError, match='not a plan'):
    report.write(tmp_path)


def test_a_size_law_over_different_lengths_is_flagged(sweep_dir):
  sweep = sweepdir.read(sweep_dir)
  fits = [json.loads(json.dumps(f)) for f in sweep.fit['fits']]
  texts = [n['text'] for n in summary.notices(sweep, fits)]
  assert not any('mixes size and data' in t for t in texts)
  for fit in fits:
    fit['points'][0]['d'] *= 2
  texts = [n['text'] for n in summary.notices(sweep, fits)]
  assert any('mixes size and data' in t for t in texts)


def test_a_fit_of_a_foreign_table_needs_no_records(tmp_path):
  fit = planted.fit_of([planted.run(d) for d in (2, 3, 4)], [])
  (tmp_path / 'fit.json').write_text(json.dumps(fit))
  report.write(tmp_path)
  page = (tmp_path / 'report.html').read_text()
  assert 'a table from elsewhere' in page
  assert 'α = 0.220' in page
  assert 'models finished' not in page
  assert '<h2 id="runs">' not in page


def test_frontier_is_not_beaten():
  table = records.frame(
    [
      planted.run(2, flops_train_total=c, val_loss_nats_per_token=y)
      for c, y in ((1.0, 5.0), (2.0, 5.5), (3.0, 4.0), (4.0, 4.0), (5.0, 3.0))
    ]
  )
  lower = run_figures.frontier(table)
  assert lower['flops_train_total'].tolist() == [1.0, 3.0, 5.0]


def test_residuals_have_the_evaluation_error(sweep_dir):
  sweep = sweepdir.read(sweep_dir)
  residuals = next(e for e in figures.build(sweep) if e.name == 'residuals')
  rows = residuals.data.query('fit == "L_mean(N) with floor"')
  rows = rows.to_dict('records')
  assert [r['role'] for r in rows].count('holdout') == 1
  for row in rows:
    assert row['predicted'] == pytest.approx(planted.loss(row['x']), rel=1e-4)
    assert abs(row['residual']) < 0.003
    assert row['sem'] == pytest.approx(0.008 / row['predicted'])


def test_checklist_names_what_was_not_recorded(sweep_dir):
  rows = {r['item']: r['value'] for r in
          summary.checklist(sweepdir.read(sweep_dir).fit)}  # fmt: skip
  assert rows['Data filter'] == 'role=fit and status=complete'
  assert rows['Versions'] == 'not recorded'


@pytest.mark.parametrize(
  ('value', 'text'),
  [(310_283_520, '310M'), (18_492_580, '18.5M'), (2.01e9, '2.01B'),
   (999_999, '1.00M'), (512, '512'), (None, '–'), (float('nan'), '–')],
)  # fmt: skip
def test_counts(value, text):
  assert notation.count(value) == text


def test_numbers():
  assert notation.number(0.22) == '0.2200'
  assert notation.number(123456.0) == '1.23×10⁵'
  assert notation.number(float('inf')) == '–'
  assert notation.scientific(3.2e-19, 2) == '3.2×10⁻¹⁹'
  assert notation.duration(7200) == '2.0 h'
  assert notation.interval({'lo': None, 'hi': 2}) == '–'


def test_scaling_and_report_do_not_import_jax_or_matplotlib_early():
  code = (
    'import sys; import varjax.scaling.report; import varjax.tools.report; '
    'bad = {"jax", "matplotlib"} & set(sys.modules); assert not bad, bad'
  )
  subprocess.run([sys.executable, '-c', code], check=True)

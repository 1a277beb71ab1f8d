"""Records in, fit.json out: the analysis of a sweep and its command."""

import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from varjax import errors, records
from varjax.scaling import identify, result, sweep_analysis, table
from varjax.scaling.options import Options
from varjax.scaling.table import Conventions
from varjax.tools import fit as tool

TOKENS = 85 * 64 * 5000
QUICK = Options(starts=30, bootstrap=100)


def truth(n, tokens):
  return 2.0 + 60.0 * n**-0.25 + 20.0 * tokens**-0.3


def record(depth, frac=1.0, seed=0, **changes):
  n = 73728 * depth**3 // 8
  tokens = int(TOKENS * frac)
  noise = np.random.default_rng([seed, depth, int(frac * 100)])
  loss = float(truth(n, tokens) * np.exp(0.002 * noise.standard_normal()))
  values = {
    'run_id': f'r{depth}', 'name': f'd{depth}', 'task': 'generate',
    'role': 'holdout' if depth == 8 else 'fit', 'status': 'complete',
    'tokenizer_id': 'tok', 'eval_set': 'val', 'loss_kind': 'exact',
    'params_total': n + 9000, 'params_body': n, 'params_adaln': n // 3,
    'params_embed_head': 9000, 'unique_images': 5000,
    'positions_per_image': 85, 'tokens_seen': tokens,
    'images_seen': tokens // 85, 'steps': int(1000 * frac),
    'total_steps': 1000, 'flops_train_total': 6.0 * (n + 9000) * tokens,
    'flops_train_body': 6.6 * n * tokens,
    'val_loss_nats_per_token': loss,
    'val_loss_last_nats_per_token': 0.9 * loss,
    'val_err': 0.95 * n**-0.01 * math.exp(1e-3 * noise.standard_normal()),
    'val_loss_scales': json.dumps([loss, 0.9 * loss]),
  }  # fmt: skip
  return records.RunRecord(**{**values, **changes})


@pytest.fixture(scope='module')
def sweep(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sweep')
  for depth in (2, 3, 4, 5, 6, 8):
    for frac in (0.05, 0.1, 0.2, 0.4, 0.7, 1.0):
      records.append(folder / 'curves.jsonl', record(depth, frac))
    records.append(folder / 'records.jsonl', record(depth))
  tokenizer = record(7, task='reconstruct', run_id='tok', role=None)
  records.append(folder / 'records.jsonl', tokenizer)
  failed = record(9, run_id='bad', status='failed', error='boom')
  records.append(folder / 'records.jsonl', failed)
  return folder


@pytest.fixture(scope='module')
def analysed(sweep):
  return sweep_analysis.analyse_records(
    records.load(sweep / 'records.jsonl'),
    records.load_curves(sweep / 'curves.jsonl'),
    options=QUICK,
  )


def test_every_fit_of_the_analysis(analysed):
  names = [f['name'] for f in analysed['fits']]
  for metric in ('L_mean', 'L_last', 'Err_mean'):
    assert f'{metric}(N) without floor' in names
  assert names[0] == analysed['name'] == 'L_mean(N) with floor'
  assert 'L_mean(C) frontier without floor' in names
  assert 'L_scale_2(N) without floor' in names
  # One token count only: the surface is refused, with the reason, and the
  # analysis goes on.
  refused = {r['name']: r for r in analysed['tables']['refused_fits']}
  assert refused['L_mean(N, D)']['type'] in ('TooFewPoints', 'ConstantInput')


def test_holdout_is_predicted_and_not_fitted(analysed):
  for entry in analysed['fits'][:2]:
    used = {p['run_id'] for p in entry['points'] if p['used']}
    assert used == {'r2', 'r3', 'r4', 'r5', 'r6'}
    (row,) = entry['holdout']
    assert row['run_id'] == 'r8'
    assert row['lo'] < row['predicted'] < row['hi']
    assert row['extrapolation'] == pytest.approx((8 / 6) ** 3, rel=1e-6)
  (row,) = analysed['fits'][0]['holdout']
  assert row['inside']
  assert abs(row['error']) < 0.02
  assert analysed['params']['alpha'] == pytest.approx(0.25, abs=0.08)
  bounds = analysed['intervals']['alpha']
  assert bounds['lo'] < 0.25 < bounds['hi']
  assert analysed['backtest']['coverage'] is not None


def test_curve_and_schema(analysed):
  keys = {
    'schema', 'kind', 'name', 'form', 'formula', 'method', 'params', 'pinned',
    'derived', 'objective', 'objective_kind', 'delta', 'starts',
    'starts_agreeing', 'starts_agreeing_fraction', 'intervals', 'bootstrap',
    'sigma_log', 'rmse_log', 'r2', 'condition', 'rank', 'inputs', 'x', 'y',
    'n_convention', 'd_convention', 'flop_convention', 'points', 'curve',
    'holdout', 'backtest', 'refusals', 'warnings', 'seed', 'versions', 'drop',
    'filter',
  }  # fmt: skip
  for entry in [analysed, *analysed['fits']]:
    assert keys <= set(entry)
    curve = entry['curve']
    assert len(curve['x']) == len(curve['y']) == len(curve['lo']) == 64
    assert all(
      lo <= y * 1.05 and y <= hi * 1.05
      for lo, y, hi in zip(curve['lo'], curve['y'], curve['hi'], strict=True)
    )
  top = {'fits', 'agreement', 'agreement_spread', 'isoflop', 'frontier',
         'checklist', 'tables', 'source'}  # fmt: skip
  assert top <= set(analysed)
  json.dumps(analysed, allow_nan=False)


def test_conventions_choose_the_counts(sweep):
  given = records.load(sweep / 'records.jsonl')
  frames = {
    n: table.from_records(given, 'L_mean', Conventions(n=n))
    for n in table.N_CONVENTIONS
  }
  body = frames['body']['n'].to_numpy()
  np.testing.assert_allclose(frames['total']['n'], body + 9000)
  np.testing.assert_allclose(frames['effective']['n'], 1.1 * body, rtol=1e-9)
  assert (frames['body_no_adaln']['n'] < body).all()
  knd = table.from_records(given, 'L_mean', Conventions(c='knd', k=4.0))
  np.testing.assert_allclose(knd['c'], 4.0 * knd['n'] * knd['d'])
  unique = table.from_records(given, 'L_mean', Conventions(d='unique'))
  assert set(unique['d']) == {5000.0 * 85}
  with pytest.raises(errors.ConfigError, match='n_convention'):
    Conventions(n='all')


def test_mixed_runs_are_refused_and_filtered(sweep):
  given = records.load(sweep / 'records.jsonl')
  mixed = given.copy()
  mixed.loc[mixed['name'] == 'd3', 'tokenizer_id'] = 'other'
  with pytest.raises(identify.MixedRuns, match='tokenizer_id'):
    sweep_analysis.analyse_records(mixed, options=QUICK)
  quick = Options(
    starts=20, bootstrap=20, backtest=False,
    filters={'tokenizer_id': 'tok'},
  )  # fmt: skip
  found = sweep_analysis.analyse_records(mixed, options=quick)
  used = {p['run_id'] for p in found['points'] if p['used']}
  assert used == {'r2', 'r4', 'r5', 'r6'}
  forced = Options(starts=20, bootstrap=20, backtest=False, force=True)
  found = sweep_analysis.analyse_records(mixed, options=forced)
  assert found['refusals'][0]['type'] == 'MixedRuns'


def test_surface_from_records_with_several_durations():
  rows = [
    record(depth, frac, run_id=f'{depth}-{frac}', role='fit')
    for depth in (2, 3, 4, 6, 8)
    for frac in (0.1, 0.3, 1.0)
  ]
  quick = Options(starts=20, bootstrap=40, backtest=False)
  found = sweep_analysis.analyse_records(records.frame(rows), options=quick)
  surface = [f for f in found['fits'] if f['form'] == 'chinchilla']
  assert len(surface) == 1
  assert surface[0]['rank'] == 5
  methods = {row['method']: row for row in found['agreement']}
  assert methods['parametric (huber)']['a'] is not None
  assert 'parametric (vpnls)' in methods


def test_tool_reads_curves_beside_records(sweep, tmp_path, capsys):
  out = tmp_path / 'out'
  code = tool.main(
    [str(sweep / 'records.jsonl'), '--out', str(out), '--bootstrap', '40',
     '--starts', '20', '--no_backtest']
  )  # fmt: skip
  assert code == 0
  found = result.read(out)
  assert found['source']['curves'].endswith('curves.jsonl')
  assert found['frontier'] is not None
  printed = capsys.readouterr().out
  assert 'held out d8' in printed
  assert str(out / 'fit.json') in printed
  assert not list(out.glob('*.partial'))


def test_too_few_runs_is_one_sentence(sweep, tmp_path):
  few = tmp_path / 'records.jsonl'
  lines = (sweep / 'records.jsonl').read_text().splitlines(keepends=True)
  few.write_text(''.join(lines[:3]))
  out = tmp_path / 'out'
  done = subprocess.run(
    [sys.executable, '-m', 'varjax.tools.fit', str(few), '--out', str(out)],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 3
  last = done.stderr.strip().splitlines()[-1]
  assert '3 finished runs' in last
  assert 'Traceback' not in done.stderr
  assert not out.exists()


def test_tool_on_a_table(tmp_path, capsys):
  rng = np.random.default_rng(0)
  n = np.geomspace(1e7, 1e9, 6).repeat(5)
  d = np.tile(np.geomspace(1e9, 1e11, 5), 6)
  y = 1.7 + 400 * n**-0.34 + 410 * d**-0.28
  frame = pd.DataFrame(
    {'p': n, 't': d, 'l': y * np.exp(1e-3 * rng.standard_normal(30))}
  )
  path = tmp_path / 'runs.csv'
  frame.to_csv(path, index=False)
  common = [str(path), '--n', 'p', '--d', 't', '--out', str(tmp_path)]
  quick = ['--bootstrap', '50', '--starts', '20']
  assert tool.main([*common, '--loss', 'l', *quick, '--sensitivity']) == 0
  found = result.read(tmp_path)
  assert found['form'] == 'chinchilla'
  assert set(found['params']) == {'E', 'A', 'B', 'alpha', 'beta'}
  assert found['params']['alpha'] == pytest.approx(0.34, abs=0.05)
  assert {'alpha', 'beta', 'E'} == set(found['profiles'])
  assert len(found['sensitivity']) > 4
  assert found['backtest']['rows']
  capsys.readouterr()
  for extra, code, words in (
    (['--loss', 'nope'], 2, 'no column'),
    (['--loss', 'l', '--form', 'cubic'], 2, 'cubic'),
    (['--loss', 'l', '--filter', 'p'], 2, 'COLUMN=VALUE'),
    (['--loss', 'l', '--form', 'power_pinned', '--floor', '9'], 3, 'floor'),
  ):
    assert tool.main([*common, *extra, *quick]) == code, extra
    assert words in capsys.readouterr().err.strip().splitlines()[-1]


def test_importing_scaling_needs_no_jax():
  code = (
    'import sys\n'
    'import varjax.scaling.sweep_analysis, varjax.scaling.reference\n'
    'import varjax.tools.fit\n'
    "sys.exit('jax' in sys.modules)\n"
  )
  assert (
    subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
  )

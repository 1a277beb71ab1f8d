"""`varjax fit --form F` on records: F is the primary fit, or exit code 3."""

import dataclasses
import json

import numpy as np
import planted
import pytest

from varjax import cli, records
from varjax.scaling import optimum, sweep_analysis, table
from varjax.scaling.options import Options
from varjax.scaling.table import Conventions

TRUTH = {'E': 2.0, 'A': 60.0, 'B': 300.0, 'alpha': 0.3, 'beta': 0.32}
QUICK = ['--bootstrap', '0', '--starts', '40', '--no_backtest']


def write(folder, lengths, depths=(2, 3, 4, 5, 6)):
  rng = np.random.default_rng(0)
  folder.mkdir()
  for i, images in enumerate(lengths):
    for depth in depths:
      n, d = planted.body(depth), images * planted.TOKENS_PER_IMAGE
      loss = float(optimum.surface(TRUTH, n, d))
      loss *= float(np.exp(3e-4 * rng.standard_normal()))
      records.append(
        folder / 'records.jsonl',
        planted.run(
          depth, i, run_id=f'r{i}-{depth}', name=f'd{depth}-{i}',
          images_seen=images, tokens_seen=d,
          flops_train_total=6.0 * n * d,
          val_loss_nats_per_token=loss,
        ),
      )  # fmt: skip
  return folder


@pytest.fixture(scope='module')
def varied(tmp_path_factory):
  lengths = (20_000, 60_000, 200_000, 600_000)
  return write(tmp_path_factory.mktemp('asked') / 'varied', lengths)


def _fit(folder, out, *more):
  code = cli.main(['fit', str(folder), '--out', str(out), *QUICK, *more])
  return code, json.loads((out / 'fit.json').read_text()) if not code else None


def test_the_surface_is_the_primary_fit(varied, tmp_path):
  code, found = _fit(varied, tmp_path, '--form', 'chinchilla')
  assert code == 0
  assert found['form'] == 'chinchilla'
  assert found['name'] == 'L_mean(N, D)'
  assert found['params']['beta'] == pytest.approx(TRUTH['beta'], rel=0.15)
  forms = [f['form'] for f in found['fits']]
  assert forms.count('chinchilla') == 1
  assert 'power_floor' in forms


def test_a_pinned_surface_and_a_plain_line_too(varied, tmp_path):
  _, found = _fit(varied, tmp_path, '--form', 'chinchilla', '--floor', '2.0')
  assert found['form'] == 'chinchilla_pinned'
  assert found['params']['E'] == 2.0
  _, found = _fit(varied, tmp_path, '--form', 'power')
  assert found['form'] == 'power'


@pytest.mark.parametrize('form', ['chinchilla', 'kaplan'])
def test_one_length_is_refused(tmp_path, capsys, form):
  folder = write(tmp_path / 'one', (120_000,), depths=(2, 3, 4, 5, 6, 7, 8, 9))
  code, _ = _fit(folder, tmp_path / 'out', '--form', form)
  assert code == 3
  assert not (tmp_path / 'out' / 'fit.json').exists()
  last = capsys.readouterr().err.strip().splitlines()[-1]
  assert last.startswith('refused')


def test_records_can_be_fitted_against_data_or_compute():
  rows = [
    planted.run(d, tokens_seen=10**d, run_id=f'r{d}') for d in range(6, 12)
  ]
  rows = [
    dataclasses.replace(
      r, val_loss_nats_per_token=3.0 + 40 * float(r.tokens_seen) ** -0.25
    )
    for r in rows
  ]
  options = Options(
    form='power_floor', x='d', starts=12, bootstrap=0, backtest=False,
    floors={'L_last': 1.0},
  )  # fmt: skip
  found = sweep_analysis.analyse_records(records.frame(rows), options=options)
  assert found['name'] == 'L_mean(D) with floor'
  assert found['params']['alpha'] == pytest.approx(0.25, rel=1e-4)
  # The longest run is held out, not the largest model.
  assert [h['run_id'] for h in found['holdout']] == ['r11']
  # A floor of one metric leaves the others free.
  names = {f['name'] for f in found['fits']}
  assert 'L_last(D) floor fixed' in names
  assert 'L_mean(D) floor fixed' not in names


def test_compute_is_planned_or_counted():
  half = planted.run(4, steps=500, total_steps=1000)
  both = records.frame([half])
  counted, planned = (
    table.from_records(both, 'L_mean', Conventions(c=c))['c'][0]
    for c in ('total', 'planned')
  )
  assert planned == 2 * counted == 2 * half.flops_train_total

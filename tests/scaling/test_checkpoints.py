"""Tables whose rows are checkpoints: clustered intervals and the envelope."""

import json

import numpy as np
import pandas as pd
import pytest

from varjax.scaling import identify, optimum, result, table_analysis
from varjax.scaling.options import Options
from varjax.tools import fit as tool

SURFACE = {'E': 1.69, 'A': 406.4, 'B': 410.7, 'alpha': 0.34, 'beta': 0.28}
COLUMNS = {'n': 'n', 'd': 'd', 'c': 'c', 'run': 'run', 'y': 'loss'}
QUICK = Options(
  starts=16, bootstrap=80, backtest=False, loss_unit='nats per token'
)


@pytest.fixture(scope='module')
def curves():
  """Eight sizes, ten checkpoints each; a run's error is common to them."""
  rng = np.random.default_rng(0)
  rows = []
  for i, n in enumerate(np.geomspace(1e7, 1e10, 8)):
    shift = 0.004 * rng.standard_normal()
    for d in n * np.geomspace(1, 1000, 10):
      loss = float(optimum.surface(SURFACE, n, d)) * np.exp(shift)
      rows.append((f'r{i}', n, d, 6 * n * d, loss))
  return pd.DataFrame(rows, columns=['run', 'n', 'd', 'c', 'loss'])


@pytest.fixture(scope='module')
def analysed(curves):
  return table_analysis.analyse_table(curves, COLUMNS, 'chinchilla', QUICK)


def test_rows_of_a_run_are_resampled_together(curves, analysed):
  assert analysed['bootstrap']['kind'] == 'clusters'
  assert 'clusters' in analysed['intervals']['alpha']['method']
  assert any('80 rows are of 8 runs' in w for w in analysed['warnings'])
  # Taken for independent runs, they would promise more than they know.
  alone = {k: v for k, v in COLUMNS.items() if k != 'run'}
  wrong = table_analysis.analyse_table(curves, alone, 'chinchilla', QUICK)
  assert wrong['bootstrap']['kind'] == 'runs'
  widths = [
    f['intervals']['alpha']['hi'] - f['intervals']['alpha']['lo']
    for f in (analysed, wrong)
  ]
  assert widths[0] > 1.5 * widths[1]


def test_the_envelope_is_one_of_the_methods(analysed):
  methods = {row['method']: row['a'] for row in analysed['agreement']}
  true = optimum.exponents(SURFACE)['a']
  assert methods['envelope'] == pytest.approx(true, abs=0.1)
  assert analysed['frontier'] is not None
  assert analysed['y']['unit'] == 'nats per token'


def test_fewer_runs_than_parameters_are_refused(curves):
  few = curves[curves['run'].isin(['r0', 'r3', 'r7'])]
  with pytest.raises(identify.TooFewPoints, match='there are 3'):
    table_analysis.analyse_table(few, COLUMNS, 'chinchilla', QUICK)


def test_command_fits_the_envelope(curves, tmp_path, capsys):
  path = tmp_path / 'curves.csv'
  curves.assign(n=curves['n'] / 1e6).to_csv(path, index=False)
  argv = [str(path), '--n', 'n', '--c', 'c', '--run', 'run', '--loss', 'loss',
          '--units', 'n=1e6', '--method', 'envelope', '--bootstrap', '40',
          '--starts', '16', '--out', str(tmp_path)]  # fmt: skip
  assert tool.main([*argv, '--form', 'power_floor']) == 0
  found = result.read(tmp_path)
  assert (found['method'], found['form']) == ('envelope', 'power_floor')
  gamma = optimum.exponents(SURFACE)['gamma']
  assert found['params']['alpha'] == pytest.approx(gamma, abs=0.03)
  assert found['n_convention'] == "column 'n' x 1e+06"
  capsys.readouterr()
  assert tool.main(argv) == 2
  assert 'a law of C' in capsys.readouterr().err
  alone = [a for a in argv if a not in ('--run', 'run')]
  assert tool.main([*alone, '--form', 'power']) == 2
  assert 'checkpoints of runs' in capsys.readouterr().err
  assert tool.main([*argv, '--units', 'x=3']) == 2
  assert "'x' is unknown" in capsys.readouterr().err
  assert json.dumps(found, allow_nan=False)

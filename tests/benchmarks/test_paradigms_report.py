"""The tables of the comparison of orders say no more than may be said."""

import importlib
import pathlib
import sys

import pandas as pd
import pytest

from varjax import errors

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture(scope='module')
def scripts():
  sys.path.insert(0, str(BENCHMARKS))
  try:
    yield tuple(importlib.import_module(n) for n in ('paradigms', 'marks'))
  finally:
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope='module')
def table():
  rows = []
  for name, kind, tokenizer, lossless in (
    ('scale', 'exact', 't1', False),
    ('masked', 'bound', 't1', False),
    ('channels', 'exact', 't2', True),
  ):
    for size in range(2, 6):
      rows.append({
        'paradigm': name, 'size': f'd{size}', 'loss_kind': kind,
        'tokenizer_id': tokenizer, 'eval_set': 'e', 'lossless': lossless,
        'params_body': 10**size, 'flops_train_total': 10.0 ** (size + 6),
        'images_seen': 64, 'updates': 4, 'run_id': f'{name}{size}',
        'code_nats': 300.0 - 10 * size + (name == 'masked'),
        'code_nats_sem': 0.1, 'bits_per_dim': 6.0 - 0.1 * size,
        'bits_per_dim_sem': 0.5, 'bits_per_dim_code_sem': 0.01,
        'kid': 0.3 - 0.01 * size, 'kid_sem': 0.02, 'sequential_steps': 4,
        'flops_sample': 1e6, 'images_per_cpu_s': 10.0,
      })  # fmt: skip
  return pd.DataFrame(rows)


def test_pairs_are_refused_or_judged_by_what_they_have_in_common(
  scripts, table
):
  by_pair = {}
  for line in scripts[0]._verdicts(table)[2:]:
    pair, nats, bits, kid = (cell.strip() for cell in line.split('|')[1:-1])
    by_pair[pair] = nats, bits, kid
  # A bound above an exact value; the residual is common; KID within errors.
  assert by_pair['scale – masked'] == ('open', 'open', 'open')
  nats, bits, kid = by_pair['scale – channels']
  assert nats == 'refused: codes of different tokenizers'
  assert (bits, kid) == ('open', 'open')


def test_bounds_are_marked_and_noise_has_no_exponent(scripts, table):
  runs = scripts[0]._runs(table)
  assert len(runs) == 14
  assert all(('≤' in line) != ('channels' in line) for line in runs[2:])
  refused = [line for line in scripts[0]._exponents(table) if 'refused' in line]
  assert [line.split('|')[2].strip() for line in refused] == ['kid'] * 3


def test_tables_go_between_their_marks_and_nowhere_else(scripts, tmp_path):
  page = tmp_path / 'page.md'
  page.write_text('a\n<!-- runs -->\nold\n<!-- end of runs -->\nb\n')
  scripts[1].write_between(page, 'runs', 'new\n')
  wanted = 'a\n<!-- runs -->\nnew\n<!-- end of runs -->\nb\n'
  assert page.read_text() == wanted
  with pytest.raises(errors.DataError, match='has no <!-- other -->'):
    scripts[1].write_between(page, 'other', 'new')
  assert page.read_text() == wanted

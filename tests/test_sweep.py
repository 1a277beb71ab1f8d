"""The algebra of sweeps, and what a sweep file may be."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from varjax import coerce, errors, sweep

# Other processes may hold the machine: examples have no time limit.
_unhurried = settings(deadline=None)

_VALUES = st.lists(st.integers(), min_size=1, max_size=5, unique=True)


def _sweep_over(key):
  return _VALUES.map(lambda values: sweep.sweep(key, values))


@_unhurried
@given(_sweep_over('a'), _sweep_over('b.c'), _sweep_over('d'))
def test_product_has_every_combination_once(a, b, c):
  combined = sweep.product(a, b, c)
  assert len(combined) == len(a) * len(b) * len(c)
  assert combined == [{**x, **y, **z} for x in a for y in b for z in c]
  assert combined == sweep.product(sweep.product(a, b), c)
  assert combined == sweep.product(a, sweep.product(b, c))


@_unhurried
@given(_sweep_over('a'))
def test_units(a):
  assert sweep.product(a) == a == sweep.chain(a) == sweep.zipit(a)
  assert sweep.product(a, sweep.product()) == a
  assert sweep.chain(a, sweep.chain()) == a
  assert sweep.product(a, sweep.fixed('b', 1)) == [{**t, 'b': 1} for t in a]


@_unhurried
@given(_sweep_over('a'), _sweep_over('b'), _sweep_over('c'))
def test_chain_is_associative_and_adds_lengths(a, b, c):
  chained = sweep.chain(a, b, c)
  assert chained == sweep.chain(sweep.chain(a, b), c)
  assert chained == sweep.chain(a, sweep.chain(b, c))
  assert len(chained) == len(a) + len(b) + len(c)
  distributed = sweep.product(sweep.chain(a, b), sweep.fixed('x', 0))
  assert distributed == sweep.chain(
    sweep.product(a, sweep.fixed('x', 0)), sweep.product(b, sweep.fixed('x', 0))
  )


@_unhurried
@given(_VALUES)
def test_zipit_pairs_in_order(values):
  zipped = sweep.zipit(
    sweep.sweep('a', values), sweep.sweep('b', [-v for v in values])
  )
  assert zipped == [{'a': v, 'b': -v} for v in values]
  assert zipped == sweep.derive(
    sweep.sweep('a', values), 'b', lambda trial: -trial['a']
  )


@_unhurried
@given(_VALUES)
def test_derive_leaves_its_input_alone_and_sees_earlier_keys(values):
  trials = sweep.sweep('a', values)
  derived = sweep.derive(
    trials, {'b': lambda t: t['a'] + 1, 'c': lambda t: 2 * t['b']}
  )
  assert trials == [{'a': v} for v in values]
  assert derived == [{'a': v, 'b': v + 1, 'c': 2 * v + 2} for v in values]


_PLAIN = st.recursive(
  st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
  ),
  lambda items: st.lists(items, max_size=3).map(tuple),
  max_leaves=5,
)


@_unhurried
@given(_PLAIN)
def test_text_of_a_value_reads_back(value):
  hints = {bool: bool, int: int, float: float}
  if isinstance(value, tuple):
    text = sweep.to_text(value)
    hint = tuple[tuple(_hint(v) for v in value)] if value else tuple[()]
    assert coerce.coerce(text, hint, 'key') == value
  else:
    again = coerce.coerce(sweep.to_text(value), hints[type(value)], 'key')
    assert again == value
    assert math.copysign(1, again) == math.copysign(1, value)


def _hint(value):
  if not isinstance(value, tuple):
    return type(value)
  return tuple[tuple(_hint(v) for v in value)] if value else tuple[()]


def test_numpy_values_become_plain():
  [trial] = sweep.sweep('optim.lr', np.array([3e-4]))
  assert type(trial['optim.lr']) is float


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: sweep.sweep('a', []), 'no values'),
    (lambda: sweep.sweep('a', [1, 2, 1]), 'trials 0 and 2 are the same'),
    (lambda: sweep.sweep('a b', [1]), 'must be names with dots'),
    (lambda: sweep.sweep('.a', [1]), 'must be names with dots'),
    (
      lambda: sweep.product(sweep.fixed('a', 1), sweep.fixed('a', 2)),
      'a is set twice, to 1 and 2',
    ),
    (
      lambda: sweep.zipit(sweep.fixed('a', 1), sweep.sweep('b', [1, 2])),
      r'equally long, not \[1, 2\]',
    ),
    (
      lambda: sweep.zipit(sweep.fixed('a', 1), sweep.fixed('a', 1)),
      'a is set twice',
    ),
    (
      lambda: sweep.chain(sweep.fixed('a', 1), sweep.fixed('a', 1)),
      'trials 0 and 1 are the same',
    ),
    (
      lambda: sweep.derive(sweep.fixed('a', 1), 'a', lambda _: 2),
      'a is set twice',
    ),
    (lambda: sweep.derive(sweep.fixed('a', 1), 'b'), 'needs a function'),
  ],
)
def test_conflicts_are_config_errors(make, message):
  with pytest.raises(errors.ConfigError, match=message):
    make()


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    ('return []', 'must return a list of trials'),
    ("return [{'optim.lr': 1.0}]", "trial 0: needs 'config'"),
    ('return [3]', 'trial 0 must be a dict'),
    ("return [{'config': 'x.py', 'name': 'a/b'}]", 'letters, digits'),
    ("return hyper.sweep('config', [])", 'no values'),
    ("return {}['x']", "get_hyper failed: KeyError: 'x'"),
    ("return [{'config': 'x.py'}] * 2", 'are the same'),
  ],
)
def test_a_bad_sweep_file_is_named(tmp_path, body, message):
  file = tmp_path / 's.py'
  file.write_text(f'def get_hyper(hyper):\n  {body}\n')
  with pytest.raises(errors.ConfigError, match=message) as caught:
    sweep.load(str(file))
  assert str(file) in str(caught.value)


def test_names_come_from_what_varies(tmp_path):
  file = tmp_path / 's.py'
  file.write_text(
    'def get_hyper(hyper):\n'
    '  return hyper.product(\n'
    "    hyper.sweep('config', ['e/var.py:size=d4', 'e/var.py:size=d8']),\n"
    "    hyper.sweep('optim.lr', [1e-3, 0.01]),\n"
    "    hyper.fixed('seed', 0),\n"
    '  )\n'
  )
  assert [t['name'] for t in sweep.load(str(file))] == [
    'var-d4-lr0.001', 'var-d4-lr0.01', 'var-d8-lr0.001', 'var-d8-lr0.01',
  ]  # fmt: skip


def test_overrides_win_and_replace_a_duration():
  trials = [
    {'config': 'x', 'total.images': 5, 'optim.lr': 1.0},
    {'config': 'y', 'total.steps': 7, 'evaluate.frac': 0.5},
  ]
  changed = sweep.with_overrides(trials, {'total.steps': '3', 'optim.lr': '2'})
  assert changed == [
    {'config': 'x', 'total.steps': '3', 'optim.lr': '2'},
    {'config': 'y', 'total.steps': '3', 'evaluate.frac': 0.5, 'optim.lr': '2'},
  ]
  assert trials[0]['total.images'] == 5
  with pytest.raises(errors.ConfigError, match='are the same'):
    sweep.with_overrides(sweep.sweep('seed', [1, 2]), {'seed': '3'})


def test_only_filters_and_refuses():
  trials = sweep.product(
    sweep.sweep('name', ['d4', 'd8']), sweep.sweep('seed', [0, 1])
  )
  assert sweep.only(trials, []) == trials
  assert sweep.only(trials, ['name=d4', 'seed=1']) == [
    {'name': 'd4', 'seed': 1}
  ]
  assert len(sweep.only(trials, ['name=d*'])) == 4
  for pattern in ('name', 'size=d4', 'seed=2'):
    with pytest.raises(errors.ConfigError, match=f'--only {pattern}'):
      sweep.only(trials, [pattern])

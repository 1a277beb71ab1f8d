"""What compares with what, and exponents that find planted ones."""

import dataclasses

import numpy as np
import pytest

from varjax.errors import DataError
from varjax.scaling import paradigms
from varjax.scaling.paradigms import Paradigm

EXACT = Paradigm('raster', 'exact', 't1', 'e1')
BOUND = Paradigm('masked', 'bound', 't1', 'e1')
SURROGATE = Paradigm('maskgit', 'surrogate', 't1', 'e1')
PIXELS = Paradigm('pixels', 'exact', 't2', 'e1', lossless=True)


def test_codes_compare_within_a_tokenizer_and_a_kind():
  same = dataclasses.replace(EXACT, name='scale')
  assert paradigms.refusal(EXACT, same, 'code_nats') == ''
  for other, reason in (
    (PIXELS, 'different tokenizers'),
    (BOUND, 'bound'),
    (SURROGATE, 'surrogate'),
    (dataclasses.replace(EXACT, eval_set='e2'), 'different sets'),
  ):
    assert reason in paradigms.refusal(EXACT, other, 'code_nats')
    assert reason in paradigms.refusal(other, EXACT, 'code_nats')


def test_images_compare_between_tokenizers_but_not_with_surrogates():
  assert paradigms.refusal(EXACT, PIXELS, 'bits_per_dim') == ''
  assert paradigms.refusal(BOUND, PIXELS, 'bits_per_dim') == ''
  assert 'surrogate' in paradigms.refusal(PIXELS, SURROGATE, 'bits_per_dim')
  assert paradigms.kind_of(PIXELS, 'bits_per_dim') == 'exact'
  assert paradigms.kind_of(EXACT, 'bits_per_dim') == 'bound'
  with pytest.raises(DataError, match='code_nats'):
    paradigms.refusal(EXACT, PIXELS, 'fid')
  rows = paradigms.comparisons(
    {'a': EXACT, 'b': BOUND, 'c': PIXELS}, 'code_nats'
  )
  assert [(r['one'], r['other']) for r in rows] == [
    ('a', 'b'), ('a', 'c'), ('b', 'c'),
  ]  # fmt: skip
  assert all(r['refused'] for r in rows)


def test_samples_compare_whatever_the_likelihood_is():
  for other in (BOUND, SURROGATE, PIXELS):
    assert paradigms.refusal(EXACT, other, 'kid') == ''
    assert paradigms.kind_of(other, 'kid') == 'estimate'
  elsewhere = dataclasses.replace(PIXELS, eval_set='e2')
  assert 'different sets' in paradigms.refusal(EXACT, elsewhere, 'kid')
  assert paradigms.better((2.0, 'estimate'), (1.0, 'estimate')) == 'worse'


def test_differences_within_their_errors_carry_no_exponent():
  values = [0.5, 0.45, 0.42, 0.3]
  assert paradigms.unresolved(values, [0.05] * 4) == ''
  assert 'differ by 0.2 ± 0.14' in paradigms.unresolved(values, [0.1] * 4)
  assert 'above 0' in paradigms.unresolved([0.5, 0.4, 0.3, -0.1], [0.01] * 4)


@pytest.mark.parametrize(
  ('one', 'other', 'verdict'),
  [
    ((2.0, 'exact'), (3.0, 'exact'), 'better'),
    ((3.0, 'bound'), (2.0, 'exact'), 'open'),
    ((2.0, 'bound'), (3.0, 'exact'), 'better'),
    ((3.0, 'exact'), (2.0, 'bound'), 'worse'),
    ((2.0, 'exact'), (3.0, 'bound'), 'open'),
    ((2.0, 'bound'), (3.0, 'bound'), 'better bound'),
    ((2.0, 'exact'), (2.05, 'exact'), 'open'),
  ],
)
def test_a_bound_convicts_one_side_only(one, other, verdict):
  assert paradigms.better(one, other, margin=0.1) == verdict


def test_intervals_cover_a_planted_exponent():
  rng = np.random.default_rng(0)
  x = np.asarray([1e4, 3e4, 1e5, 3e5])
  inside = 0
  for _ in range(200):
    y = 5 * x**-0.1 * np.exp(rng.normal(0, 0.01, 4))
    found = paradigms.fit_exponent(x, y)
    inside += found.lo <= 0.1 <= found.hi
  assert 180 <= inside <= 199
  exact = paradigms.fit_exponent(x, 5 * x**-0.1)
  assert exact.exponent == pytest.approx(0.1)
  assert exact.scale == pytest.approx(5)


@pytest.mark.parametrize(
  ('x', 'y', 'reason'),
  [
    ([1, 2, 3], [3, 2, 1], 'at least 4'),
    ([1, 1, 2, 3], [3, 2, 1, 1], 'at least 4'),
    ([1, 2, 3, 4], [3, 2, 1, 0], 'positive'),
    ([1, 2, 3, 4], [3, 2, 1, np.nan], 'finite'),
  ],
)
def test_exponents_of_too_little_are_refused(x, y, reason):
  with pytest.raises(DataError, match=reason):
    paradigms.fit_exponent(x, y)

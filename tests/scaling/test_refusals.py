"""Every way in which a table cannot support a fit is a typed refusal."""

import numpy as np
import pandas as pd
import pytest

from varjax import errors
from varjax.scaling import (
  fit,
  forms,
  identify,
  isoflop,
  optimum,
  profile,
  reference,
  table_analysis,
)
from varjax.scaling.objective import Objective
from varjax.scaling.options import Options

SURFACE = {'E': 1.69, 'A': 406.4, 'B': 410.7, 'alpha': 0.34, 'beta': 0.28}
N = np.geomspace(1e7, 1e9, 8)


def test_constant_tokens():
  y = optimum.surface(SURFACE, N, 1e10)
  with pytest.raises(identify.ConstantInput, match='d spans') as caught:
    fit.fit(forms.CHINCHILLA, {'n': N, 'd': np.full(8, 1e10)}, y)
  assert 'power_floor' in caught.value.advice
  assert isinstance(caught.value, errors.FitRefused)
  assert caught.value.exit_code == 3


@pytest.mark.parametrize('power', [1.0, 0.5, -1.0])
def test_tokens_tied_to_size(power):
  d = 1e10 * (N / N[0]) ** power
  with pytest.raises(identify.TiedInputs, match='told apart'):
    fit.fit(forms.CHINCHILLA, {'n': N, 'd': d}, optimum.surface(SURFACE, N, d))


def test_too_few_points():
  y = 1 + N**-0.2
  with pytest.raises(identify.TooFewPoints, match='at least 4'):
    fit.fit(forms.POWER_FLOOR, {'x': N[:3]}, y[:3], Objective('log'))
  with pytest.raises(identify.TooFewPoints, match='distinct'):
    fit.fit(
      forms.POWER_FLOOR, {'x': N[[0, 0, 0, 7, 7]]}, y[[0, 0, 0, 7, 7]],
      Objective('log'),
    )  # fmt: skip


def test_rising_loss():
  with pytest.raises(identify.WrongCurvature, match='rises'):
    fit.fit(forms.POWER, {'x': N}, N**0.1, Objective('log'))


@pytest.mark.parametrize('bad', [np.nan, np.inf, 0.0, -1.0])
def test_bad_values(bad):
  y = 1 + N**-0.2
  y[3] = bad
  with pytest.raises(identify.BadValues):
    fit.fit(forms.POWER, {'x': N}, y, Objective('log'))
  x = N.copy()
  x[3] = bad
  with pytest.raises(identify.BadValues):
    fit.fit(forms.POWER, {'x': x}, 1 + N**-0.2, Objective('log'))


@pytest.mark.parametrize('name', ['FID', 'val_fid', 'fd_efflite0', 'gFID-50k'])
def test_fid_is_no_loss(name):
  frame = pd.DataFrame({'n': N, name: 30 * N**-0.1})
  with pytest.raises(identify.NotALoss, match='score of samples'):
    table_analysis.analyse_table(frame, {'n': 'n', 'y': name}, 'power')
  options = Options(starts=9, bootstrap=20, force=True)
  found = table_analysis.analyse_table(
    frame, {'n': 'n', 'y': name}, 'power', options
  )
  (kept,) = found['refusals']
  assert kept['type'] == 'NotALoss'
  assert kept['forced']
  assert kept['next']


def test_a_name_that_only_sounds_like_a_score():
  gate = identify.Gate()
  for name in ('loss', 'val_loss_nats_per_token', 'fidelity_loss', 'list_l'):
    identify.check_loss_name(name, gate)


def test_a_floor_above_the_measurements():
  y = 2 + N**-0.2
  form = forms.pin_floor(forms.POWER, 9.0)
  with pytest.raises(identify.BadValues, match='fixed floor 9'):
    fit.fit(form, {'x': N}, y, Objective('log'))


def test_starts_that_disagree_and_starts_that_stay():
  gate = identify.Gate()
  with pytest.raises(identify.FewStartsAgree, match='2 of 50'):
    identify.check_starts(identify.StartReport(50, 2, 1.0), gate)
  d = np.tile([1e9, 1e10, 5e9, 2e10], 2)
  y = optimum.surface(SURFACE, N, d)
  scale = forms.scale_of({'n': N, 'd': d}, y)
  start = forms.CHINCHILLA.to_theta(SURFACE, scale)
  with pytest.raises(identify.OptimumIsStart, match='did not move'):
    fit.fit(
      forms.CHINCHILLA, {'n': N, 'd': d}, y, inits=np.repeat(start[None], 3, 0)
    )


def isoflop_frame(shift=0.0, sign=1.0, budgets=4, runs=6):
  rows = []
  for c in np.logspace(18, 21, budgets):
    n = np.sqrt(c / 6) * np.geomspace(0.2, 5, runs)
    y = 3 + sign * (np.log(n / np.sqrt(c / 6)) - shift) ** 2 / 10
    rows += zip(n, c / 6 / n, [c] * runs, y, strict=True)
  return pd.DataFrame(rows, columns=['n', 'd', 'c', 'y'])


def test_isoflop_minima_are_validated():
  good = isoflop.isoflop(isoflop_frame())
  assert good.exponent == pytest.approx(0.5, abs=1e-9)
  with pytest.raises(identify.EdgeMinimum, match='edge'):
    isoflop.isoflop(isoflop_frame(shift=3.0))
  with pytest.raises(identify.EdgeMinimum):
    isoflop.isoflop(isoflop_frame(shift=3.0), method='akima')
  with pytest.raises(identify.WrongCurvature, match='wrong sign'):
    isoflop.isoflop(isoflop_frame(sign=-1.0))
  with pytest.raises(identify.TooFewPoints, match='sizes'):
    isoflop.isoflop(isoflop_frame(runs=3))
  with pytest.raises(identify.TooFewPoints, match='2 of 2'):
    isoflop.isoflop(isoflop_frame(budgets=2))
  forced = isoflop.isoflop(isoflop_frame(budgets=2), force=True)
  assert forced.refusals
  assert forced.exponent == pytest.approx(0.5, abs=1e-9)


def test_condition_of_a_design_needs_no_measurement():
  n, d = (v.ravel() for v in np.meshgrid(N, np.geomspace(1e9, 1e11, 4)))
  wide = identify.design_condition(forms.CHINCHILLA, {'n': n, 'd': d})
  assert wide < 300
  narrow = identify.design_condition(
    forms.CHINCHILLA, {'n': n, 'd': 1e9 * (d / 1e9) ** 0.1}
  )
  assert narrow > 10 * wide
  tied = identify.design_condition(forms.CHINCHILLA, {'n': n, 'd': 20 * n})
  assert tied > 1e10


def test_profile_says_where_the_data_set_no_limit():
  rng = np.random.default_rng(0)
  y = 5 * N**-0.1 * np.exp(0.01 * rng.standard_normal(8))
  found = fit.fit(forms.POWER_FLOOR, {'x': N}, y, Objective('log'), starts=60)
  floor = profile.profile(found, 'E', points=21)
  assert floor.lo is None
  sharp = fit.fit(
    forms.POWER_FLOOR, {'x': N},
    (1 + 50 * N**-0.2) * np.exp(1e-5 * rng.standard_normal(8)),
    Objective('log'), starts=60,
  )  # fmt: skip
  floor = profile.profile(sharp, 'E', span=0.05)
  assert floor.lo < 1 < floor.hi
  assert floor.hi - floor.lo < 0.05
  with pytest.raises(errors.ConfigError, match='no profile'):
    profile.profile(sharp, 'A')


def test_published_laws_have_units_and_sources():
  laws = reference.laws()
  assert len(laws) > 40
  for law in laws.values():
    assert law.source
    assert law.certainty in ('read', 'reproduced', 'unverified')
    inputs = [1e9] * len(law.x.split(','))
    assert np.isfinite(law.predict(*inputs))
  # VAR d16: (2.5 * .302)^-.20, and Henighan's 16x16 VQ at 1e9 parameters.
  d16 = laws['var_l_mean_n'].predict(73728 * 16**3)
  assert d16 == pytest.approx((2.5 * 0.301990) ** -0.20, rel=1e-5)
  vq = laws['henighan_image_vq_16x16_n'].predict(1e9)
  assert vq == pytest.approx(3.99 + (1e9 / 2.7e4) ** -0.13)
  kaplan = laws['kaplan_c'].predict(3.1e8 * 8.64e19)
  assert kaplan == pytest.approx(1.0)
  with pytest.raises(errors.ConfigError, match='no published law'):
    reference.law('nobody')

"""The cheapest run that reaches a loss, alone and with its inference."""

import dataclasses
import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import planted
import pytest

from varjax import cli, config, errors, flops
from varjax.scaling import ladder, law, optimum, plan, plan_figures, proposal
from varjax.scaling import target as targets
from varjax.scaling.menu import Demand, Menu, effective_tokens

PARAMS = planted.SURFACE


@pytest.fixture(scope='module')
def surface():
  return law.of_fit(planted.surface_fit())


@pytest.fixture(scope='module')
def family():
  return ladder.of_run(proposal.var_family())


def test_the_cheapest_is_the_optimum_read_backwards():
  n, d, loss = optimum.optimum(PARAMS, 1e21, 4.5)
  found = optimum.cheapest(PARAMS, loss, 4.5)
  assert found == pytest.approx((n, d, 1e21), rel=1e-9)
  assert np.isnan(optimum.cheapest(PARAMS, PARAMS['E'], 4.5)).all()


@settings(max_examples=40, deadline=None)
@given(st.floats(5.2, 7.0), st.floats(8, 14), st.floats(2, 8), st.floats(1, 6))
def test_no_other_size_is_cheaper_and_both_questions_agree(
  loss, log_sampled, k, k_sample
):
  sampled = 10**log_sampled
  n, d, cost = optimum.cheapest(PARAMS, loss, k, k_sample, sampled)
  assert optimum.surface(PARAMS, n, d) == pytest.approx(loss, rel=1e-9)
  assert k * n * d + k_sample * n * sampled == pytest.approx(cost, rel=1e-9)
  others = n * np.array([0.5, 0.9, 0.99, 1.01, 1.1, 2.0])
  left = loss - PARAMS['E'] - PARAMS['A'] * others ** -PARAMS['alpha']
  with np.errstate(all='ignore'):
    tokens = np.where(
      left > 0, (PARAMS['B'] / left) ** (1 / PARAMS['beta']), np.inf
    )
  dearer = k * others * tokens + k_sample * others * sampled
  assert (dearer >= cost * (1 - 1e-9)).all()
  # A budget of that cost gives that loss, with the same model.
  again = optimum.with_inference(PARAMS, cost, k, k_sample, sampled)
  assert again[2] == pytest.approx(loss, rel=1e-7)
  assert again[0] == pytest.approx(n, rel=1e-3)
  free = optimum.cheapest(PARAMS, loss, k)
  assert n <= free[0] * (1 + 1e-9)
  assert d >= free[1] * (1 - 1e-9)


def test_every_size_reaches_the_loss_and_the_best_is_the_cheapest(
  surface, family
):
  demand = Demand(1.0, inference_images=1e8)
  found = targets.plan_for_loss(surface, family, 5.75, demand)
  cost = {s.rung: s.flops_train + s.flops_inference for s in found.sizes}
  assert min(cost, key=cost.get) == found.best.rung
  assert found.demand.flops == pytest.approx(cost[found.best.rung])
  assert found.target_loss == 5.75
  for size in found.sizes:
    assert size.loss == pytest.approx(5.75, rel=1e-9)
    waste = 1 - cost[found.best.rung] / cost[size.rung]
    assert size.deadweight == pytest.approx(waste)
    work = flops.train_flops_per_image(
      family.run(size.rung).model, family.base.tokenizer
    ).total
    assert size.flops_train == pytest.approx(size.images * work)
  top = found.optimum
  spent = top.n * (top.k * top.d + top.k_inference * top.d_inference)
  assert spent == pytest.approx(top.flops)
  assert top.flops == pytest.approx(found.demand.flops, rel=0.05)
  assert top.n_interval[0] < top.n < top.n_interval[1]


def test_more_samples_never_make_the_model_larger(surface, family):
  rungs = [
    targets.plan_for_loss(surface, family, 5.75, Demand(1.0, images)).best.rung
    for images in (0.0, 1e7, 1e8, 1e9, 1e10)
  ]
  assert rungs == sorted(rungs, reverse=True)
  assert rungs[-1] < rungs[0]


def test_repeats_cost_images_and_can_put_a_loss_out_of_reach(surface, family):
  fresh = Demand(1.0)
  menu = Menu(surface, family)
  repeated = dataclasses.replace(
    fresh, unique_images=1_281_167, repeat_constant=15.0
  )
  plain = targets.images_for(menu, 5.9, fresh)
  worn = targets.images_for(menu, 5.9, repeated)
  once = plain <= 1_281_167
  assert (worn[once] == plain[once]).all()
  assert (worn >= plain).all()
  finite = np.isfinite(worn)
  assert finite.any()
  assert not finite.all()
  # What it says suffices does suffice: the two directions agree.
  tokens = effective_tokens(worn[finite], menu.positions, repeated)
  loss = surface.loss(menu.n[finite], tokens)
  np.testing.assert_allclose(loss, 5.9, rtol=1e-9)
  with pytest.raises(errors.FitRefused, match='worth less still'):
    targets.plan_for_loss(surface, family, 5.3, repeated)
  with pytest.raises(errors.FitRefused, match='fitted floor is 5'):
    targets.plan_for_loss(surface, family, 5.0, fresh)
  with pytest.raises(errors.ConfigError, match='must be positive'):
    targets.plan_for_loss(surface, family, float('nan'), fresh)


def test_a_smaller_model_pays_from_its_break_even_on(surface, family):
  found = plan.plan(surface, family, Demand(1e20))
  rows = targets.equal_loss(surface, family, found)
  at = next(r for r in rows if r['rung'] == found.best.rung)
  assert at['overhead'] == pytest.approx(0.0, abs=1e-12)
  smaller = [r for r in rows if r['n'] < at['n']]
  assert len(smaller) > 2
  for row in smaller:
    assert row['overhead'] > 0
    assert row['tokens_per_param'] > at['tokens_per_param']
    even = row['break_even_images']
    total = {
      r['name']: r['flops_train'] + even * r['flops_per_sample']
      for r in (row, at)
    }
    assert total[row['name']] == pytest.approx(total[at['name']], rel=1e-9)
  assert all(r['break_even_images'] is None for r in rows if r['n'] > at['n'])


def test_command_plans_for_a_loss(tmp_path, capsys):
  (tmp_path / 'fit.json').write_text(json.dumps(planted.surface_fit()))
  base = ['plan', '--fit', str(tmp_path), '--target_loss', '5.75']
  out = tmp_path / 'planned.py'
  argv = [*base, '--inference_images', '1e8', '--out', str(out)]
  assert cli.main(argv) == 0
  text = capsys.readouterr().out
  assert 'target loss 5.75' in text
  assert 'cheaper from' in text
  written = json.loads((tmp_path / 'plan.json').read_text())
  run = config.to_spec(config.load(str(out)))
  # Updates are rounded up, so that the loss is reached.
  planned = next(
    s for s in written['sizes'] if s['rung'] == written['best']['rung']
  )
  seen = run.total.steps * run.batch_size
  assert planned['images'] <= seen < planned['images'] + run.batch_size
  names = [e.name for e in plan_figures.build(written)]
  assert 'plan_overtraining' in names
  assert cli.main([*base, '--budget', '1e20']) == 2
  assert 'a plan has one goal' in capsys.readouterr().err
  assert cli.main(['plan', '--fit', str(tmp_path), '--target_loss', '4']) == 3

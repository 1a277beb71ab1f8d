"""Plans: exact costs, monotone budgets, honest refusals, runnable files."""

import dataclasses
import json
import math
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pandas as pd
import planted
import pytest

from varjax import cli, config, devices, errors, flops, memory, records
from varjax.scaling import (
  costs,
  experiment_file,
  ladder,
  law,
  optimum,
  plan,
  proposal,
  recipe,
)
from varjax.scaling.menu import Demand, Menu, effective_tokens
from varjax.spec import Duration, ModelSpec, RunSpec
from varjax.tools import plan as tool

PARAMS, _fit = planted.SURFACE, planted.surface_fit


def _size_fit(**changes):
  draws = {'A': [12.0] * 50, 'alpha': np.linspace(0.2, 0.24, 50).tolist(),
           'E': [3.4] * 50}  # fmt: skip
  return _fit(
    name='L_mean(N) with floor', form='power_floor',
    params={'E': 3.4, 'A': 12.0, 'alpha': 0.22},
    bootstrap={'draws': draws}, inputs={'n': {'max': 3e8}}, **changes,
  )  # fmt: skip


@pytest.fixture(scope='module')
def surface():
  return law.of_fit(_fit())


@pytest.fixture(scope='module')
def family():
  return ladder.of_run(proposal.var_family())


@pytest.fixture(scope='module')
def menu(surface, family):
  return Menu(surface, family)


def test_the_plan_is_the_best_of_all_sizes_at_exact_cost(surface, family):
  found = plan.plan(surface, family, Demand(1e20))
  assert len(found.sizes) > 30
  assert found.best.loss == min(s.loss for s in found.sizes)
  for size in found.sizes:
    run = family.run(size.rung)
    work = flops.train_flops_per_image(run.model, run.tokenizer).total
    assert size.images * work == pytest.approx(1e20)
    assert size.tokens == pytest.approx(680 * size.images)
    n = flops.parameter_counts(run.model, run.tokenizer).body
    loss = 5 + 406.4 * n**-0.34 + 410.7 * size.tokens**-0.28
    assert size.loss == pytest.approx(loss)
    assert size.lo < size.loss < size.hi


def test_the_continuous_optimum_is_near_and_is_hoffmanns(surface, family):
  found = plan.plan(surface, family, Demand(1e20))
  top = found.optimum
  assert top.k * top.n * top.d == pytest.approx(1e20)
  n, d, loss = optimum.optimum(PARAMS, 1e20, top.k)
  assert (top.n, top.d, top.loss) == pytest.approx((n, d, loss))
  assert found.best.n == pytest.approx(top.n, rel=0.15)
  assert found.best.loss == pytest.approx(top.loss, rel=1e-3)
  assert top.n_interval[0] < top.n < top.n_interval[1]
  # AdaLN is a third of the body and runs once per image, so k < 6.
  assert 4 < top.k < 5


def test_deadweight_is_what_the_best_would_save(menu, surface, family):
  found = plan.plan(surface, family, Demand(1e20))
  assert found.best.deadweight == 0
  for size in found.sizes:
    assert 0 <= size.deadweight < 1
  size = next(s for s in found.sizes if s.deadweight > 0.3)
  less = Demand(1e20 * (1 - size.deadweight))
  assert menu.losses(less).min() == pytest.approx(size.loss, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
  low=st.floats(17, 23),
  step=st.floats(0.001, 3),
  repeat=st.sampled_from([None, 4.0, 40.0]),
  inference=st.sampled_from([0.0, 1e4]),
)
def test_plans_are_monotone_in_the_budget(menu, low, step, repeat, inference):
  demands = [
    Demand(10**exponent, inference, 1_281_167, repeat)
    for exponent in (low, low + step)
  ]
  losses = [menu.losses(d) for d in demands]
  assert losses[1].min() <= losses[0].min()
  if repeat is None and inference == 0:
    # Data terms shrink with compute, so a larger size never loses its lead.
    sizes = [menu.n[int(np.argmin(x))] for x in losses]
    assert sizes[1] >= sizes[0]
  images = [menu.images(d) for d in demands]
  assert (images[1] >= images[0]).all()


def test_inference_makes_the_model_smaller_and_is_paid_for(surface, family):
  plain = plan.plan(surface, family, Demand(1e20))
  lived = plan.plan(surface, family, Demand(1e20, 3e7))
  assert lived.best.rung < plain.best.rung
  total = lived.best.flops_train + lived.best.flops_inference
  assert total == pytest.approx(1e20)
  assert lived.best.flops_inference > 0


def test_repeats_are_worth_less_than_new_images():
  demand = Demand(1e20, unique_images=1000, repeat_constant=10.0)
  counted = effective_tokens(np.array([500, 1000, 2000, 1e9]), 10, demand)
  assert counted[:2] == pytest.approx([5000, 10_000])
  assert counted[2] == pytest.approx(10_000 * (1 + 10 * (1 - math.exp(-0.1))))
  assert counted[3] == pytest.approx(10_000 * 11)


def test_many_epochs_and_far_plans_are_said(surface, family):
  demand = Demand(1e20, unique_images=100_000)
  found = plan.plan(surface, family, demand)
  assert any('every repeat counts as new data' in w for w in found.warnings)
  with pytest.raises(errors.FitRefused, match='--extrapolate'):
    plan.plan(surface, family, Demand(1e26))
  far = plan.plan(surface, family, Demand(1e26), allow_extrapolation=True)
  assert far.extrapolation > 30
  assert any('largest size considered' in w for w in far.warnings)


def test_refusals_and_bad_budgets(surface, family):
  with pytest.raises(errors.FitRefused, match='does not pay for one image'):
    plan.plan(surface, family, Demand(1e3))
  with pytest.raises(errors.FitRefused, match=r'no L\(N, D\)'):
    plan.plan(law.of_fit(_size_fit()), family, Demand(1e20))
  for bad in (0.0, -1.0, math.nan, math.inf):
    with pytest.raises(errors.ConfigError):
      Demand(bad)
  with pytest.raises(errors.ConfigError, match='needs unique_images'):
    Demand(1e20, repeat_constant=3.0)


def test_law_prefers_the_surface_and_refuses_forced_fits():
  both = {**_size_fit(), 'fits': [_size_fit(), _fit()]}
  assert law.of_fit(both).has_surface
  rate = _size_fit(y={'name': 'Err_mean', 'kind': 'rate'})
  with pytest.raises(errors.FitRefused, match='neither'):
    law.of_fit(rate)
  forced = _fit(refusals=[{'type': 'Unidentified', 'reason': 'D = 20 N'}])
  with pytest.raises(errors.FitRefused, match='D = 20 N'):
    law.of_fit(forced)


def test_law_without_draws_predicts_without_interval():
  found = law.of_fit(_fit(bootstrap=None)).predict(1e8, 1e10)
  assert found.lo is None
  assert found.hi is None
  # A pinned floor has no draws of its own.
  draws = {k: [v] * 50 for k, v in PARAMS.items() if k != 'E'}
  pinned = _fit(bootstrap={'draws': draws}, pinned={'E': 5.0}, sigma_log=0.0)
  found = law.of_fit(pinned).predict(1e8, 1e10)
  assert found.lo == pytest.approx(found.value)


def test_var_recipe_is_the_published_one(family):
  rows = {
    16: (768, 3e-4, 0.1),
    24: (768, 2.4e-4, 0.01),
    30: (1024, 3.2e-4, 0.01),
  }
  for depth, (batch, lr, final) in rows.items():
    run = recipe.apply('var', family.run(depth))
    assert run.batch_size == batch
    assert proposal.peak_lr(run) == pytest.approx(lr)
    assert run.optim.final == final
    assert run.model.drop_path == pytest.approx(0.1 * depth / 24)
  assert recipe.apply('var', family.run(18)).optim.lr == 1e-4
  with pytest.raises(errors.ConfigError, match='var, keep'):
    recipe.apply('mup', family.run(16))


def test_families_follow_the_rule_of_their_runs():
  def shape(depth, width, heads):
    return RunSpec(model=ModelSpec(depth=depth, width=width, heads=heads))

  by_depth = ladder.of_runs([shape(2, 32, 2), shape(4, 64, 4)])
  assert (by_depth.width_per_depth, by_depth.head_size) == (16, 16)
  assert by_depth.run(7).model.width == 112
  by_width = ladder.of_runs([shape(4, 64, 4), shape(4, 128, 8)])
  assert by_width.name(3) == 'w48'
  assert by_width.run(3).model == dataclasses.replace(
    by_width.base.model, depth=4, width=48, heads=3
  )
  with pytest.raises(errors.ConfigError, match='no rule'):
    ladder.of_runs([shape(2, 32, 2), shape(4, 128, 8)])


@pytest.mark.parametrize(
  ('convention', 'share'),
  [('body', 302_219_520), ('total', 310_283_520),
   ('body_no_adaln', 302_219_520 - 16 * 6 * (1024**2 + 1024))],
)  # fmt: skip
def test_parameters_are_counted_as_the_fit_counted_them(
  family, convention, share
):
  assert ladder.params(family.run(16), convention) == share


def test_cost_is_flops_over_speed(family):
  machine = costs.Machine(devices.get('h100'), 8, 0.5, 'given', 2.0)
  made = proposal.propose(family, 16, 1e6, 'var', machine)
  assert made.images <= 1e6 < made.images + 768
  hours = made.flops_train / (989e12 * 0.5) / 3600
  assert made.cost.device_hours == pytest.approx(hours)
  assert made.cost.wall_h == pytest.approx(hours / 8)
  assert made.cost.money == pytest.approx(2 * hours)
  estimate = memory.memory_estimate(made.run, 8).total
  assert made.cost.memory_bytes == estimate
  with pytest.raises(errors.FitRefused, match='less than one batch'):
    proposal.propose(family, 16, 700, 'var')


def test_mfu_comes_from_the_largest_run_on_the_same_device():
  table = records.frame(
    [
      planted.run(2, device_kind='NVIDIA H100 80GB HBM3', mfu=0.2),
      planted.run(4, device_kind='NVIDIA H100 80GB HBM3', mfu=0.4),
      planted.run(6, device_kind='TPU v5p', mfu=0.6),
    ]
  )
  found = costs.measured_mfu(table, devices.get('h100'))
  assert found == (0.4, 'measured in d4')
  with pytest.raises(errors.ConfigError, match='no complete run on v6e'):
    costs.measured_mfu(table, devices.get('v6e'))


def test_prices_are_numbers_or_a_file(tmp_path):
  device = devices.get('v5p')
  file = tmp_path / 'prices.json'
  file.write_text('{"v5p": 4.2}')
  assert costs.price_of('3', device) == 3
  assert costs.price_of(str(file), device) == 4.2
  for bad in ('cheap', '-1', 'nan'):
    with pytest.raises(errors.ConfigError):
      costs.price_of(bad, device)
  with pytest.raises(errors.ConfigError, match='no price for'):
    costs.price_of(str(file), devices.get('h100'))


@pytest.mark.parametrize('note', ['plain', 'a """ quote', 'a \\ slash', 'q"'])
def test_experiment_file_gives_back_the_run(tmp_path, family, note):
  run = dataclasses.replace(
    proposal.propose(family, 20, 5e6, 'var').run,
    tokenizer_dir='it\'s "here"',
  )
  path = tmp_path / 'planned.py'
  path.write_text(experiment_file.source(run, note))
  assert config.to_spec(config.load(str(path))) == run


def test_command_writes_a_runnable_plan(tmp_path, capsys):
  (tmp_path / 'fit.json').write_text(json.dumps(_fit()))
  out = tmp_path / 'planned.py'
  argv = [
    'plan', '--fit', str(tmp_path), '--budget', '1e20', '--out', str(out),
    '--device', 'v5p', '--devices', '4', '--price', '4.2',
  ]  # fmt: skip
  assert cli.main(argv) == 0
  text = capsys.readouterr().out
  written = json.loads((tmp_path / 'plan.json').read_text())
  run = config.to_spec(config.load(str(out)))
  assert run.total == Duration(steps=written['best']['steps'])
  assert run.model.depth == written['best']['depth']
  assert f'train {written["best"]["name"]}' in text
  work = flops.train_flops_per_image(run.model, run.tokenizer).total
  exact = work * written['best']['images']
  assert written['best']['flops_train'] == exact <= 1e20
  assert exact > 0.999e20
  assert not list(tmp_path.glob('.*'))


def test_device_hours_are_a_budget(tmp_path, capsys):
  (tmp_path / 'fit.json').write_text(json.dumps(_fit()))
  argv = ['--fit', str(tmp_path), '--device_hours', '100', '--device', 'h100',
          '--mfu', '0.5', '--json', str(tmp_path / 'p.json')]  # fmt: skip
  assert tool.main(argv) == 0
  capsys.readouterr()
  written = json.loads((tmp_path / 'p.json').read_text())
  assert written['demand']['flops'] == pytest.approx(100 * 3600 * 989e12 / 2)
  assert written['best']['cost']['device_hours'] == pytest.approx(100, rel=1e-2)


def test_a_fitted_surface_leads_to_the_planted_optimum(tmp_path, capsys):
  n, d = np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6))
  noise = np.random.default_rng(0).normal(0, 5e-4, n.size)
  truth = law.of_fit(_fit())
  table = pd.DataFrame({'params': n.ravel(), 'tokens': d.ravel()})
  table['loss'] = truth.loss(n.ravel(), d.ravel()) * np.exp(noise)
  table.to_csv(tmp_path / 'runs.csv', index=False)
  fit = ['fit', str(tmp_path / 'runs.csv'), '--n', 'params', '--d', 'tokens',
         '--loss', 'loss', '--out', str(tmp_path), '--starts', '20',
         '--bootstrap', '60']  # fmt: skip
  assert cli.main(fit) == 0
  out = tmp_path / 'p.json'
  argv = ['plan', '--fit', str(tmp_path), '--budget', '1e20', '--json',
          str(out)]  # fmt: skip
  assert cli.main(argv) == 0
  assert 'is not of varjax records' in capsys.readouterr().out
  top = json.loads(out.read_text())['optimum']
  expected = optimum.optimum(PARAMS, 1e20, top['k'])[0]
  assert top['n_interval'][0] < expected < top['n_interval'][1]
  assert top['n'] == pytest.approx(expected, rel=0.1)


def test_size_law_refuses_a_plan_and_predicts_sizes(tmp_path, capsys):
  (tmp_path / 'fit.json').write_text(json.dumps(_size_fit()))
  base = ['plan', '--fit', str(tmp_path)]
  assert cli.main([*base, '--budget', '1e20']) == 3
  assert 'name --sizes' in capsys.readouterr().err
  out = tmp_path / 'sizes.json'
  argv = [*base, '--sizes', 'd16,d20', '--budget', '3e20', '--json', str(out)]
  assert cli.main(argv) == 0
  text = capsys.readouterr().out
  assert 'valid for the training length' in text
  rows = json.loads(out.read_text())['sizes']
  assert [r['params_total'] for r in rows] == [310_283_520, 600_917_136]
  assert rows[0]['loss'] == pytest.approx(3.4 + 12 * 302_219_520**-0.22)
  assert rows[0]['lo'] < rows[0]['loss'] < rows[0]['hi']
  assert [r['affordable'] for r in rows] == [True, False]


def test_family_and_data_can_come_from_records(tmp_path, capsys):
  def recorded(depth):
    model = ModelSpec(depth=depth, width=32 * depth, heads=depth)
    run = dataclasses.replace(proposal.var_family(), model=model)
    return planted.run(
      depth, unique_images=5000, config_json=config.to_json(run)
    )

  for depth in (2, 4):
    records.append(tmp_path / 'records.jsonl', recorded(depth))
  (tmp_path / 'fit.json').write_text(json.dumps(_fit()))
  out = tmp_path / 'p.json'
  argv = ['--fit', str(tmp_path), '--records', str(tmp_path), '--budget',
          '1e18', '--json', str(out)]  # fmt: skip
  assert tool.main(argv) == 0
  assert 'width = 32 x depth' in capsys.readouterr().out
  written = json.loads(out.read_text())
  assert written['recipe'] == 'keep'
  assert written['demand']['unique_images'] == 5000
  best = written['best']
  assert best['width'] == 32 * best['depth']


@pytest.mark.parametrize(
  ('extra', 'message'),
  [
    (['--budget', '1e20', '--device', 'tpu9'], 'must be one of'),
    (['--device_hours', '5'], 'needs --device'),
    ([], 'give --budget'),
    (['--budget', '1e20', '--sizes', 'x3'], 'must be d2 to d64'),
    (['--budget', '1e20', '--out', 'no/where/p.py'], 'is missing'),
    (['--budget', '1e20', '--fit', 'absent'], 'no such fit'),
  ],
)
def test_bad_arguments_are_one_sentence(tmp_path, capsys, extra, message):
  (tmp_path / 'fit.json').write_text(json.dumps(_fit()))
  assert cli.main(['plan', '--fit', str(tmp_path), *extra]) == 2
  error = capsys.readouterr().err.strip()
  assert message in error
  assert '\n' not in error


def test_planning_needs_no_jax():
  code = (
    'import sys; import varjax.scaling.plan, varjax.scaling.proposal; '
    'import varjax.tools.plan; bad = {"jax", "matplotlib"} & set(sys.modules); '
    'assert not bad, bad'
  )
  subprocess.run([sys.executable, '-c', code], check=True)

"""Plans from a fit of repeated data; recipes that follow the plan."""

import json

import pytest
from test_slices import FIT

from varjax import cli, errors, flops
from varjax.scaling import ladder, proposal, recipe, repeats
from varjax.tools import plan as tool


def repeat_fit(**changes):
  profile = {'values': [1.0], 'objective': [1.0], 'lo': 6.0, 'hi': 80.0}
  fit = {
    'form': 'repeat', 'name': 'L(N, D) repeat', 'refusals': [],
    'params': {'R_D': 15.0, 'R_N': 5.0}, 'profiles': {'R_D': profile},
  }  # fmt: skip
  return {**fit, **changes}


@pytest.fixture(scope='module')
def family():
  return ladder.of_run(proposal.var_family())


@pytest.fixture
def command(tmp_path, capsys):
  (tmp_path / 'fit.json').write_text(json.dumps(FIT))

  def run(*argv, repeat=None):
    argv = ['--fit', str(tmp_path), '--json', str(tmp_path / 'p.json'), *argv]
    if repeat is not None:
      file = tmp_path / 'repeat.json'
      file.write_text(json.dumps(repeat))
      argv += ['--repeat_fit', str(file)]
    tool.main(argv)
    return json.loads((tmp_path / 'p.json').read_text()), (
      capsys.readouterr().out
    )

  return run


def test_the_plan_is_made_for_all_three_constants(command):
  found, text = command('--budget', '1e20', repeat=repeat_fit())
  cases = {c['case']: c for c in found['repeat']['cases']}
  assert [cases[k]['repeat_constant'] for k in ('lower', 'best', 'upper')] == [
    6.0, 15.0, 80.0,
  ]  # fmt: skip
  assert found['demand']['repeat_constant'] == 15.0
  assert found['best']['name'] == cases['best']['name']
  # Repeats worth less: a larger model, fewer epochs, a higher loss.
  assert cases['lower']['n'] > cases['upper']['n']
  assert cases['lower']['epochs'] < cases['upper']['epochs']
  losses = [cases[k]['loss'] for k in ('lower', 'best', 'upper')]
  assert losses == sorted(losses, reverse=True)
  for word, case in cases.items():
    alone, _ = command('--budget', '1e20', '--repeat_constant',
                       str(case['repeat_constant']))  # fmt: skip
    assert alone['best']['name'] == case['name'], word
    assert alone['best']['loss'] == pytest.approx(case['loss'], rel=1e-12)
    assert case['name'] in text
  assert 'R_D* = 15 [6, 80]' in text


def test_an_interval_without_ends_is_planned_as_such(command):
  profile = {'R_D': {'lo': None, 'hi': None}}
  fit = repeat_fit(profiles=profile, refusals=[{'reason': 'few runs'}])
  found, text = command('--budget', '1e20', repeat=fit)
  low, _, high = found['repeat']['cases']
  assert low['unlimited']
  assert high['unlimited']
  # Worthless repeats: no more tokens than one epoch of ImageNet has.
  assert low['effective_tokens'] <= 1_281_167 * 680 * (1 + 1e-5)
  plain, _ = command('--budget', '1e20')
  assert high['loss'] == pytest.approx(plain['best']['loss'], rel=1e-12)
  assert 'R_D* = 15 [no limit, no limit]' in text
  assert 'set no lower or upper limit' in text
  assert 'forced: few runs' in text


def test_a_repeat_fit_may_stand_among_others():
  found = repeats.of_fit({'form': 'chinchilla', 'fits': [repeat_fit()]})
  assert (found.lo, found.best, found.hi) == (6.0, 15.0, 80.0)


@pytest.mark.parametrize(
  ('fit', 'words'),
  [
    (FIT, 'no fit of repeated data'),
    (repeat_fit(profiles=None), 'no R_D with a profile'),
    (repeat_fit(params={'R_D': None}), 'no R_D with a profile'),
  ],
)
def test_other_fits_are_refused(fit, words):
  with pytest.raises(errors.FitRefused, match=words):
    repeats.of_fit(fit)


def test_one_source_of_the_constant(command):
  with pytest.raises(errors.ConfigError, match='not both'):
    command('--budget', '1e20', '--repeat_constant', '3', repeat=repeat_fit())


def test_deepseek_follows_the_compute(family):
  run = family.run(16)
  work = flops.train_flops_per_image(run.model, run.tokenizer).total
  images = 1e20 / work
  made = recipe.apply('deepseek', run, images)
  # By hand: 10^-2.5 * .3118, and .2920 * 10^6.542 tokens of 680.
  assert made.optim.lr == pytest.approx(0.3118 * 10**-2.5)
  assert made.batch_size == 64 * round(0.2920 * 10**6.542 / 680 / 64)
  assert made.optim.lr_reference_batch == 0
  assert proposal.peak_lr(made) == made.optim.lr


def test_steplaw_follows_size_and_data(family):
  run = family.run(16)
  made = recipe.apply('steplaw', run, 1e10 / 680)
  n = 302_219_520
  assert made.optim.lr == pytest.approx(1.79 * n**-0.713 * 1e10**0.307)
  assert made.batch_size == 64 * round(0.58 * 1e10**0.571 / 680 / 64)
  longer = recipe.apply('steplaw', run, 1e11 / 680)
  assert longer.batch_size > made.batch_size
  assert longer.optim.lr > made.optim.lr
  tiny = recipe.apply('steplaw', run, 40)
  assert tiny.batch_size <= 40


@pytest.mark.parametrize('name', ['deepseek', 'steplaw'])
def test_unverified_recipes_say_so(command, tmp_path, name):
  assert 'From memory, unverified' in recipe.RECIPES[name].__doc__
  out = tmp_path / 'planned.py'
  found, text = command('--budget', '1e20', '--recipe', name, '--out', str(out))
  assert found['recipe'] == name
  assert any('from memory, unverified' in w for w in found['warnings'])
  assert 'from memory, unverified' in text
  best = found['best']
  assert best['steps'] * best['batch_size'] == best['images']
  assert out.is_file()


def test_a_law_of_the_length_needs_the_length(family):
  with pytest.raises(errors.ConfigError, match='needs the length'):
    recipe.apply('steplaw', family.run(16))


def test_the_refusal_of_a_repeat_plan_is_exit_code_3(tmp_path, capsys):
  (tmp_path / 'fit.json').write_text(json.dumps(FIT))
  argv = ['plan', '--fit', str(tmp_path), '--budget', '1e20', '--repeat_fit',
          str(tmp_path)]  # fmt: skip
  assert cli.main(argv) == 3
  assert 'no fit of repeated data' in capsys.readouterr().err

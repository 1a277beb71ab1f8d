"""docs/recipes.md and docs/sampling.md against experiments and commands."""

import pathlib
import re

import pytest

from varjax import cli, config, flops

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = (ROOT / 'docs' / 'recipes.md').read_text()
SAMPLING = (ROOT / 'docs' / 'sampling.md').read_text()
ROW = re.compile(r'^\| (d\d+(?:-s)?) \| (.+) \|$', re.MULTILINE)
PRESETS = dict(ROW.findall(RECIPES))


def _spec(size):
  pixels = 512 if size.endswith('-s') else 256
  path = ROOT / 'experiments' / f'var_imagenet{pixels}.py'
  return config.to_spec(config.load(f'{path}:size={size}'), size)


def test_the_five_published_models_are_there():
  assert list(PRESETS) == ['d16', 'd20', 'd24', 'd30', 'd36-s']


@pytest.mark.parametrize('size', PRESETS)
def test_the_table_is_what_the_experiments_say(size):
  run = _spec(size)
  cells = [float(cell.replace(',', '')) for cell in PRESETS[size].split(' | ')]
  counts = flops.parameter_counts(run.model, run.tokenizer)
  expected = [
    run.model.width,
    run.model.heads,
    counts.total,
    run.batch_size,
    run.total.epochs,
    run.optim.lr,
    run.model.init_gamma,
    run.optim.final,
    run.optim.weight_decay_end,
    run.model.drop_path,
    run.data.resolution,
  ]
  assert cells == pytest.approx(expected, rel=1e-3)
  assert cells[2] == counts.total


@pytest.mark.parametrize('size', PRESETS)
def test_what_is_said_of_all_presets_holds(size):
  run = _spec(size)
  optim, model = run.optim, run.model
  assert (optim.beta1, optim.beta2, optim.eps) == (0.9, 0.95, 1e-8)
  assert (optim.schedule, optim.clip_norm) == ('lin0', 2.0)
  assert (optim.weight_decay, optim.lr_reference_batch) == (0.05, 256)
  assert (optim.warmup.frac, optim.warmup_start) == (1 / 50, 0.005)
  assert (model.label_drop, model.label_smoothing) == (0.1, 0.0)
  assert model.l2_norm
  assert model.shared_adaln == (size == 'd36-s')
  assert (run.data.resize_ratio, run.data.flip) == (1.125, False)
  assert run.progressive.share == 0
  assert (run.sample.cfg, run.sample.top_k, run.sample.top_p) == (
    1.5,
    900,
    0.96,
  )


@pytest.mark.parametrize('text', [RECIPES, SAMPLING], ids=['recipes', 'sample'])
def test_commands_and_their_options_exist(text, capsys):
  blocks = re.findall(r'(?:^    .+\n)+', text, re.MULTILINE)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  calls = [line.split() for line in lines if line.strip().startswith('varjax')]
  assert len(calls) >= 4
  for _, command, *words in calls:
    with pytest.raises(SystemExit):
      cli.main([command, '--help'])
    known = capsys.readouterr().out
    for word in words:
      if word.startswith('--') and not word.startswith('--config.'):
        assert re.search(rf'{word}\b', known), f'{command} has no {word}'


def test_config_keys_on_the_page_exist():
  keys = set(re.findall(r'--config\.([\w.]+)=', RECIPES))
  assert {'init_from', 'progressive.share', 'model.num_classes'} <= keys
  default = config.default_config()
  for key in keys:
    here = default
    for part in key.split('.'):
      assert part in here, key
      here = here[part]

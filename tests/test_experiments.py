"""Every experiment builds, every sweep expands, every stated cost is true."""

import ast
import importlib.util
import pathlib
import sys

import pytest

from varjax import config, errors, flops, orders, schedule, sweep

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted(p.name for p in (ROOT / 'experiments').glob('*.py'))
SWEEPS = sorted(p.name for p in (ROOT / 'sweeps').glob('*.py'))
VAR256 = 'experiments/var_imagenet256.py'
TRAIN_IMAGES = 1_281_167


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  """Experiments name each other relative to the checkout."""
  monkeypatch.chdir(ROOT)


def _spec(path):
  return config.to_spec(config.load(path), path)


@pytest.fixture(scope='module')
def cost_table():
  path = ROOT / 'benchmarks' / 'cost_table.py'
  module_spec = importlib.util.spec_from_file_location('cost_table', path)
  assert module_spec is not None
  assert module_spec.loader is not None
  module = importlib.util.module_from_spec(module_spec)
  # Dataclasses look their module up while they are made.
  sys.modules['cost_table'] = module
  module_spec.loader.exec_module(module)
  yield module
  del sys.modules['cost_table']


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_experiment_builds_and_gives_its_command(name):
  run = _spec(f'experiments/{name}')
  assert run.name
  assert f'--config experiments/{name}' in _docstring(f'experiments/{name}')
  # The plan is a whole number of updates, and the schedule ends with it.
  assert schedule.resolve_run(run, TRAIN_IMAGES).total > 0


@pytest.mark.parametrize('name', SWEEPS)
def test_every_sweep_expands_to_trials_that_build(name):
  trials = sweep.load(f'sweeps/{name}')
  assert len({trial['name'] for trial in trials}) == len(trials)
  roles = set()
  for trial in trials:
    overrides = {k: v for k, v in trial.items() if k != 'config'}
    loaded = config.override(config.load(trial['config']), overrides)
    roles.add(config.to_spec(loaded, trial['config']).role)
  # Comparisons of orders fit no law that could predict a held-out size.
  comparisons = ('paradigms.py', 'paradigms_gpu.py', 'parallelism.py')
  held_out = set() if name in comparisons else {'holdout'}
  assert roles == {'fit', *held_out}
  assert f'varjax sweep sweeps/{name}' in _docstring(f'sweeps/{name}')


@pytest.mark.parametrize(
  ('name', 'sizes'),
  [('paradigms', 4), ('paradigms_gpu', 4), ('parallelism', 1)],
)
def test_orders_are_compared_at_matched_parameters_and_flops(name, sizes):
  by_width = {}
  for trial in sweep.load(f'sweeps/{name}.py'):
    run = _spec(trial['config'])
    sequence = orders.sequence_of(run.order, run.tokenizer)
    body = flops.parameter_counts(run.model, sequence).body
    work = flops.train_flops_per_image(run.model, sequence).total
    assert run.total.images % run.batch_size == 0
    costs = by_width.setdefault(run.model.width, [])
    costs.append((body, work * run.total.images))
  assert len(by_width) == sizes
  for costs in by_width.values():
    assert len(costs) >= 7
    for values in zip(*costs, strict=True):
      assert max(values) / min(values) < 1.01


# Official training arguments of the released models.
@pytest.mark.parametrize(
  ('size', 'batch', 'epochs', 'lr', 'gamma', 'final', 'decay_end'),
  [
    ('d16', 768, 200, 1e-4, 1e-3, 0.1, 0.05),
    ('d20', 768, 250, 1e-4, 1e-3, 0.1, 0.05),
    ('d24', 768, 350, 8e-5, 1e-4, 0.01, 0.05),
    ('d30', 1024, 350, 8e-5, 1e-5, 0.01, 0.08),
  ],
)
def test_published_recipes(size, batch, epochs, lr, gamma, final, decay_end):
  run = _spec(f'{VAR256}:size={size}')
  assert (run.batch_size, run.total.epochs) == (batch, epochs)
  assert (run.optim.lr, run.optim.lr_reference_batch) == (lr, 256)
  assert (run.model.init_gamma, run.optim.final) == (gamma, final)
  assert run.optim.weight_decay == 0.05
  assert run.optim.weight_decay_end == decay_end
  assert (run.optim.beta1, run.optim.beta2) == (0.9, 0.95)
  assert run.optim.clip_norm == 2.0
  resolved = schedule.resolve_run(run, TRAIN_IMAGES)
  updates_per_epoch = TRAIN_IMAGES / batch
  assert resolved.warmup == pytest.approx(
    epochs / 50 * updates_per_epoch, abs=1
  )


@pytest.mark.parametrize(
  ('size', 'like'), [('d6', 'd16'), ('d18', 'd16'), ('d26', 'd24')]
)
def test_unpublished_sizes_take_the_nearest_recipe(size, like):
  run, other = (_spec(f'{VAR256}:size={s}') for s in (size, like))
  assert run.optim == other.optim
  assert run.total == other.total
  assert run.model.init_gamma == other.model.init_gamma
  assert run.model.drop_path == pytest.approx(0.1 * run.model.depth / 24)


def test_512_is_the_published_shared_model():
  run = _spec('experiments/var_imagenet512.py')
  counts = flops.parameter_counts(run.model, run.tokenizer)
  assert counts.total == 2_353_893_904
  assert (run.batch_size, run.total.epochs) == (768, 350)
  assert (run.optim.lr, run.model.init_gamma) == (8e-5, 5e-6)
  with pytest.raises(errors.ConfigError, match='must be d36-s'):
    config.load('experiments/var_imagenet512.py:size=d30')


def test_tokenizer_is_the_released_network():
  run = _spec('experiments/msvq_imagenet.py')
  counts = flops.tokenizer_parameter_counts(run.tokenizer)
  assert counts.total == 108_948_355
  assert (run.optim.beta1, run.optim.beta2) == (0.5, 0.9)
  with pytest.raises(errors.ConfigError, match='one of 256, 512'):
    config.load('experiments/msvq_imagenet.py:resolution=100')


def test_full_tokenizer_recipe_is_the_authors_trainer():
  """Weights, schedule and optimisers of FoundationVision/vaex."""
  path = 'experiments/msvq_imagenet.py:recipe=full'
  with pytest.raises(errors.ConfigError, match=r'perceptual\.weights'):
    _spec(path)
  files = {
    f'reconstruct.{part}.weights': 'file.pth'
    for part in ('perceptual', 'adversarial')
  }
  run = config.to_spec(config.override(config.load(path), files), path)
  assert run.ema == 0.9999
  losses, gan = run.reconstruct, run.reconstruct.adversarial
  assert (losses.l1, losses.l2, losses.perceptual.weight) == (0.2, 1, 1)
  assert (gan.weight, gan.consistency, gan.cutout) == (0.4, 4, 0.2)
  steps = schedule.resolve_run(run, TRAIN_IMAGES)
  shares = [
    getattr(steps.adversarial, name) / steps.total
    for name in ('start', 'warmup', 'blur', 'lr_warmup')
  ]
  assert shares == pytest.approx([0.2, 0.02, 0.04, 0.01], abs=1e-5)
  for optim, decay in ((run.optim, 0.005), (gan.optim, 0.0005)):
    assert (optim.lr, optim.schedule, optim.final) == (3e-4, 'cos', 0.3)
    assert (optim.beta1, optim.beta2) == (0.5, 0.9)
    assert (optim.clip_norm, optim.weight_decay) == (10, decay)


def test_own_images_give_the_same_codes_at_every_resolution():
  for resolution in (64, 128, 256):
    arg = f'resolution={resolution}'
    run = _spec(f'experiments/folder_tokenizer.py:{arg}')
    assert flops.sequence_of(run.tokenizer).positions == 680
    var = _spec(f'experiments/folder_var.py:{arg},classes=7')
    assert var.tokenizer == run.tokenizer
    assert var.data == run.data
    assert var.model.num_classes == 7


def test_the_ladder_spans_18_million_to_2_billion():
  trials = sweep.load('sweeps/var_ladder.py')
  assert len(trials) == 12
  totals, held_out = [], []
  for trial in trials:
    run = _spec(trial['config'])
    total = flops.parameter_counts(run.model, run.tokenizer).total
    totals.append(total)
    if trial['role'] == 'holdout':
      held_out.append(total)
  assert (min(totals), max(totals)) == (18_492_580, 2_010_020_356)
  assert sorted(held_out) == sorted(totals)[-2:]


def test_docstrings_state_the_computed_costs(cost_table):
  for path, table in cost_table.documented().items():
    assert table in _docstring(path), (
      f'{path}: its cost table is out of date; `python '
      'benchmarks/cost_table.py --table` prints the new one'
    )


def test_d16_costs_what_its_flops_say(cost_table):
  cost = cost_table.cost_of(f'{VAR256}:size=d16')
  run = _spec(f'{VAR256}:size=d16')
  per_image = flops.train_flops_per_image(run.model, run.tokenizer).total
  assert cost.flops == per_image * 200 * TRAIN_IMAGES
  seconds = cost.flops / (989e12 * cost_table.MFU)
  assert cost.device_hours['h100'] == pytest.approx(seconds / 3600)


def _docstring(path):
  return ast.get_docstring(ast.parse((ROOT / path).read_text()), clean=False)

"""Fine-tuning from the weights of another run."""

import dataclasses
import pathlib
import shutil

from flax import traverse_util
from flax.core import meta
import jax
import numpy as np
import pytest
import tiny
from tiny import run_to_end

from varjax import checkpoint, cli, errors, records, runs, train
from varjax.tokenizers import artifact, make_tokenizer

CLASSES = 'embed/classes/embedding'

pytestmark = pytest.mark.usefixtures('one_device')


def weights(path):
  saved = checkpoint.load_params(path, ('params',))['params']
  return traverse_util.flatten_dict(saved, sep='/')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """Images, a tokenizer, its codes, and a trained model."""
  root = tmp_path_factory.mktemp('world')
  images = tiny.write_images(root / 'images')
  # Which codes images have does not matter here.
  run = tiny.tokenizer_run(images)
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)
  params = meta.unbox(
    jax.jit(tokenizer.init, static_argnums=1)(
      jax.random.key(0), run.data.resolution
    )
  )
  artifact.save(root / 'tok', run.tokenizer, run.data, params)
  argv = ['encode', '--tokenizer', str(root / 'tok'), '--quiet']
  assert cli.main([*argv, '--out', str(root / 'codes')]) == 0
  place = images, root / 'tok', root / 'codes'
  run_to_end(tiny.var_run(*place), root / 'model')
  return place, root / 'model'


def fine_tune(world, **overrides):
  """A run whose updates do nothing, so that the start stays visible."""
  place, model = world
  frozen = {'total.steps': 2, 'optim.lr': 1e-30, 'init_from': str(model)}
  return tiny.var_run(*place, **{**frozen, **overrides})


@pytest.fixture(scope='module')
def tuned(world, tmp_path_factory):
  path = tmp_path_factory.mktemp('tuned')
  return run_to_end(fine_tune(world), path), path


def test_it_starts_where_the_other_run_ended(world, tuned):
  record, path = tuned
  before, after = weights(world[1]), weights(path)
  for name, value in before.items():
    np.testing.assert_array_equal(after[name], value, name)
  ended = records.read(world[1] / 'records.jsonl')[-1]
  assert record.val_loss_nats_per_token == ended.val_loss_nats_per_token
  assert record.images_seen == 2 * record.batch_images


def test_the_weights_are_part_of_the_id_and_the_path_is_not(world, tmp_path):
  place, model = world
  run = fine_tune(world)
  shutil.copytree(model, tmp_path / 'moved')
  moved = dataclasses.replace(run, init_from=str(tmp_path / 'moved'))
  fresh = dataclasses.replace(run, init_from='')
  assert runs.resolve_run_id(moved) == runs.resolve_run_id(run)
  assert runs.resolve_run_id(fresh) != runs.resolve_run_id(run)
  other = tiny.var_run(*place, **{'total.steps': 1, 'seed': 1})
  run_to_end(other, tmp_path / 'other')
  swapped = dataclasses.replace(run, init_from=str(tmp_path / 'other'))
  assert runs.resolve_run_id(swapped) != runs.resolve_run_id(run)


def test_other_classes_get_a_fresh_embedding(world, tmp_path):
  place, model = world
  shutil.copytree(place[0], tmp_path / 'images')
  for split in ('train', 'validation'):
    shutil.rmtree(tmp_path / 'images' / split / 'stripe')
  overrides = {
    'data.data_dir': str(tmp_path / 'images'),
    'input': 'images',
    'model.num_classes': 2,
  }
  run_to_end(fine_tune(world, **overrides), tmp_path / 'w')
  before, after = weights(model), weights(tmp_path / 'w')
  assert before[CLASSES].shape == (4, 16)
  assert after[CLASSES].shape == (3, 16)
  fresh = fine_tune(world, **overrides, **{'init_from': ''})
  run_to_end(fresh, tmp_path / 'fresh')
  initial = weights(tmp_path / 'fresh')
  np.testing.assert_array_equal(after[CLASSES], initial[CLASSES])
  for name in before.keys() - {CLASSES}:
    np.testing.assert_array_equal(after[name], before[name], name)
  assert (initial['embed/pos'] != before['embed/pos']).any()


def test_fine_tuning_resumes_from_itself(world, tmp_path):
  """A second start continues the run; it does not start over."""
  run = fine_tune(world, **{'optim.lr': 1e-2, 'checkpoint.steps': 1})
  seen = []

  class PowerCut(BaseException):
    pass

  def cut(_, step, __):
    seen.append(step)
    if step == 2:
      raise PowerCut

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train.Progress, 'update', cut)
    with pytest.raises(PowerCut):
      run_to_end(run, tmp_path)
  assert checkpoint.latest_step(tmp_path) == 1
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      train.warmstart, 'start_from', lambda *_: pytest.fail('started over')
    )
    record = run_to_end(run, tmp_path)
  assert record.restarts == 1


@pytest.mark.parametrize(
  ('overrides', 'said'),
  [
    ({'model.depth': 1}, r'has shape \(2, .* needs \(1,'),
    ({'model.mlp_ratio': 2.0}, 'blocks/mlp/fc1/'),
    ({'model.width': 32}, r'adaln/bias has shape \(2, 96\) there'),
    ({'model.l2_norm': False}, 'the weight blocks/attention/scale'),
    ({'init_from': 'nowhere'}, 'nowhere.*no finished checkpoint'),
  ],
)
def test_other_shapes_are_refused_by_name(world, tmp_path, overrides, said):
  with pytest.raises(errors.CheckpointError, match=said) as caught:
    run_to_end(fine_tune(world, **overrides), tmp_path / 'w')
  assert '\n' not in str(caught.value)
  assert checkpoint.latest_step(tmp_path / 'w') is None


def test_a_tokenizer_run_starts_from_nothing(tmp_path):
  with pytest.raises(errors.ConfigError, match='init_from'):
    tiny.tokenizer_run(tmp_path, init_from='x')


def test_a_dry_run_reports_missing_weights(world):
  resolved = runs.resolve(
    fine_tune(world, init_from='nowhere'), allow_missing=True
  )
  assert any('init_from' in text for text in resolved.missing)
  assert pathlib.Path('nowhere').exists() is False

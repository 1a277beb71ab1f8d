"""The train loop end to end: accounts, resume, signals, NaN, refusals."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
from PIL import Image
import pytest
import tiny
from tiny import run_to_end

from varjax import (
  checkpoint,
  cli,
  errors,
  flops,
  inputs,
  metrics,
  progressive,
  records,
  schedule,
  sharding,
  train,
)
from varjax.aot import abstract
from varjax.data import pipeline

ROOT = pathlib.Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """Images, a trained tokenizer and its codes."""
  root = tmp_path_factory.mktemp('world')
  images = tiny.write_images(root / 'images')
  run_to_end(tiny.tokenizer_run(images), root / 'tok')
  argv = ['encode', '--tokenizer', str(root / 'tok'), '--quiet']
  assert cli.main([*argv, '--out', str(root / 'codes'), '--views', '2']) == 0
  return images, root / 'tok', root / 'codes'


@pytest.fixture(scope='module')
def undisturbed(world, tmp_path_factory):
  path = tmp_path_factory.mktemp('undisturbed')
  return run_to_end(tiny.var_run(*world), path), path


def test_tokenizer_leaves_weights_record_and_sheet(world):
  _, tokenizer, _ = world
  record = records.read(tokenizer / 'records.jsonl')[-1]
  assert record.status == 'complete'
  assert record.task == 'reconstruct'
  assert record.val_images == 12
  assert record.val_loss_nats_per_token is None
  assert 0 < record.code_usage <= 1
  assert len(json.loads(record.val_psnr_scales)) == 3
  described = json.loads((tokenizer / 'tokenizer.json').read_text())
  assert record.tokenizer_id == described['tokenizer_id']
  with Image.open(tokenizer / 'reconstruction.png') as sheet:
    pixels = np.asarray(sheet)
  # The first row is the originals, whose background is 20 of 255.
  assert (np.abs(pixels[:90].astype(int) - 20) < 3).mean() > 0.2


def test_accounts_are_exact(world, undisturbed):
  record, path = undisturbed
  run = tiny.var_run(*world)
  assert record.steps == record.total_steps == 6
  assert record.images_seen == 6 * run.batch_size
  assert record.unique_images == 30
  assert record.epochs == pytest.approx(48 / 30)
  assert record.tokens_seen == record.images_seen * 21
  assert record.loss_kind == 'exact'
  per_image = record.flops_train_total / record.images_seen
  planned = flops.train_flops_per_image(run.model, run.tokenizer).total
  assert per_image == planned
  assert record.params_total == record.params_body + record.params_embed_head
  curve = records.load_curves(path / 'curves.jsonl')
  assert curve['steps'].tolist() == [3, 6]
  last = curve['val_loss_nats_per_token'].iloc[-1]
  assert last == record.val_loss_nats_per_token
  scales = np.array(json.loads(record.val_loss_scales))
  weights = np.array([1, 4, 16]) / 21
  assert (scales * weights).sum() == pytest.approx(last, rel=1e-5)


def test_parameters_in_the_checkpoint_are_those_of_the_record(undisturbed):
  record, path = undisturbed
  saved = checkpoint.load_params(path, ('params',))['params']
  assert sum(x.size for x in jax.tree.leaves(saved)) == record.params_total


def test_training_lowers_the_loss(world, tmp_path):
  run = tiny.var_run(*world, **{'total.steps': 40, 'evaluate.steps': 10})
  record = run_to_end(run, tmp_path)
  curve = records.load_curves(tmp_path / 'curves.jsonl')
  assert record.val_loss_nats_per_token < np.log(32)
  assert curve['val_loss_nats_per_token'].iloc[0] > (
    record.val_loss_nats_per_token
  )


def test_resumed_equals_uninterrupted_bit_for_bit(
  world, undisturbed, tmp_path, monkeypatch
):
  record, path = undisturbed
  run = tiny.var_run(*world)

  class PowerCut(BaseException):
    pass

  calls = []

  def cut(_, step, __):
    calls.append(step)
    if step == 5:
      raise PowerCut

  with monkeypatch.context() as patch:
    patch.setattr(train.Progress, 'update', cut)
    with pytest.raises(PowerCut):
      run_to_end(run, tmp_path)
  assert checkpoint.latest_step(tmp_path) == 4
  again = run_to_end(run, tmp_path)
  assert again.restarts == 1
  for field in ('val_loss_nats_per_token', 'val_err', 'val_loss_scales',
                'val_loss_uncond_nats_per_token',
                'train_loss_nats_per_token'):  # fmt: skip
    assert getattr(again, field) == getattr(record, field), field
  one = checkpoint.load_params(path, ('params',))
  other = checkpoint.load_params(tmp_path, ('params',))
  jax.tree.map(np.testing.assert_array_equal, one, other)
  curves = [
    records.load_curves(p / 'curves.jsonl')['val_loss_nats_per_token'].tolist()
    for p in (path, tmp_path)
  ]
  assert curves[0] == curves[1]
  logs = [_metrics(p) for p in (path, tmp_path)]
  assert logs[0] == logs[1]


def test_reading_ahead_changes_no_number(world, undisturbed, tmp_path):
  record, path = undisturbed
  run = tiny.var_run(*world, data_prefetch=2)
  again = run_to_end(run, tmp_path)
  assert again.run_id == record.run_id
  assert again.val_loss_nats_per_token == record.val_loss_nats_per_token
  assert _metrics(tmp_path) == _metrics(path)


def test_late_data_are_in_every_record(world, tmp_path, monkeypatch):
  """Of both stages; a source that waits until the devices are idle."""
  read = pipeline.TrainBatches.__next__
  window, made = train.Window, []

  def remember(self):
    made.append(self)
    return window_init(self)

  def late(self):
    while made and made[-1].is_running():
      time.sleep(0.001)
    time.sleep(0.05)
    return read(self)

  window_init = window.__init__
  monkeypatch.setattr(window, '__init__', remember)
  monkeypatch.setattr(pipeline.TrainBatches, '__next__', late)
  for number, run in enumerate(
    (tiny.tokenizer_run(world[0]), tiny.var_run(*world))
  ):
    made.clear()
    record = run_to_end(run, tmp_path / str(number))
    curve = records.load_curves(tmp_path / str(number) / 'curves.jsonl')
    for stall in (record.data_stall, *curve['data_stall']):
      assert 0 < stall <= 1
    assert (curve['eval_data_stall'] >= 0).all()


def test_progressive_training_resumes_inside_a_stage(
  world, tmp_path, monkeypatch
):
  overrides = {
    'progressive.share': 0.8,
    'progressive.first': 1,
    'progressive.fade.steps': 2,
    'progressive.fade.frac': 0.0,
  }
  run = tiny.var_run(*world, **overrides)
  record = run_to_end(run, tmp_path / 'whole')
  # Five positions up to the second scale, 21 from the fourth update on.
  stages = progressive.stages(run, schedule.resolve_run(run, 30))
  assert [(s.start, s.last) for s in stages] == [(0, 1), (3, 2)]
  assert record.tokens_seen == 8 * (3 * 5 + 3 * 21)
  full = flops.train_flops_per_image(run.model, run.tokenizer).total
  assert 3 * 8 * full < record.flops_train_total < 6 * 8 * full

  class PowerCut(BaseException):
    pass

  def cut(_, step, __):
    if step == 5:
      raise PowerCut

  with monkeypatch.context() as patch:
    patch.setattr(train.Progress, 'update', cut)
    with pytest.raises(PowerCut):
      run_to_end(run, tmp_path / 'cut')
  assert checkpoint.latest_step(tmp_path / 'cut') == 4
  again = run_to_end(run, tmp_path / 'cut')
  assert again.val_loss_nats_per_token == record.val_loss_nats_per_token
  assert again.tokens_seen == record.tokens_seen


def _metrics(path):
  """Logged training losses by step."""
  return {
    row['step']: row['train/loss']
    for row in metrics.read(path)
    if 'train/loss' in row
  }


def test_a_complete_run_is_not_repeated(world, undisturbed):
  record, path = undisturbed
  before = (path / 'records.jsonl').read_bytes()
  again = run_to_end(tiny.var_run(*world), path)
  assert again == record
  assert (path / 'records.jsonl').read_bytes() == before


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(world, tmp_path):
  run = tiny.var_run(
    *world,
    **{
      'optim.lr': 1e30,
      'optim.clip_norm': 0.0,
      'optim.schedule': 'lin00',
      'checkpoint.steps': 1,
      'total.steps': 12,
    },
  )
  with pytest.raises(errors.TrainingStopped, match='the loss of update'):
    run_to_end(run, tmp_path)
  assert not (tmp_path / 'records.jsonl').exists()
  step = checkpoint.latest_step(tmp_path)
  assert step is not None
  assert step < 12
  saved = checkpoint.load_params(tmp_path, ('params',))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved))


def test_on_the_fly_encoding_trains_too(world, tmp_path):
  run = tiny.var_run(*world, **{'input': 'images', 'total.steps': 2})
  record = run_to_end(run, tmp_path)
  assert record.flops_tokenizer > 0
  assert record.val_images == 12


def test_accumulation_and_averaged_weights(world, tmp_path):
  """Micro-batches train; the average is kept, evaluated and given out."""
  overrides = {'optim.accumulate': 2, 'batch_size': 16, 'total.steps': 3}
  record = run_to_end(
    tiny.var_run(*world, **overrides, ema=0.9), tmp_path / 'averaged'
  )
  plain = run_to_end(tiny.var_run(*world, **overrides), tmp_path / 'plain')
  saved = checkpoint.load_params(tmp_path / 'averaged', ('params', 'ema'))
  unaveraged = checkpoint.load_weights(tmp_path / 'plain')
  jax.tree.map(np.testing.assert_array_equal, saved['params'], unaveraged)
  weights = checkpoint.load_weights(tmp_path / 'averaged')
  jax.tree.map(np.testing.assert_array_equal, saved['ema'], weights)
  assert record.val_loss_nats_per_token != plain.val_loss_nats_per_token
  assert cli.main(['eval', '--workdir', str(tmp_path / 'averaged')]) == 0
  again = run_to_end(
    tiny.var_run(*world, init_from=str(tmp_path / 'averaged'), ema=0.9),
    tmp_path / 'tuned',
  )
  assert np.isfinite(again.val_loss_nats_per_token)


@pytest.mark.parametrize(
  ('overrides', 'said'),
  [
    ({'model.num_classes': 5}, 'the data has 3 classes'),
    ({'tokenizer.commitment': 0.5}, 'was trained with 0.25'),
    ({'codes_dir': 'nowhere'}, 'nowhere'),
    ({'tokenizer_dir': 'nowhere'}, 'tokenizer.json'),
    ({'tokenizer_dir': ''}, 'tokenizer_dir is not set'),
  ],
)
def test_contradictions_are_one_sentence(world, tmp_path, overrides, said):
  run = tiny.var_run(*world, **overrides)
  with pytest.raises(errors.VarjaxError) as caught:
    run_to_end(run, tmp_path / 'w')
  assert said in str(caught.value)
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'w' / 'records.jsonl').exists()


def test_sigterm_saves_and_the_same_command_resumes(world, tmp_path):
  places = [str(place) for place in world]
  experiment = tmp_path / 'exp.py'
  experiment.write_text(
    'import pathlib\nimport tiny\nfrom varjax import config\n'
    'def get_config(arg):\n'
    f'  run = tiny.var_run(*map(pathlib.Path, {places!r}))\n'
    '  return config.as_config(run)\n'
  )
  path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
  environment = {**os.environ, 'PYTHONPATH': path, 'XLA_FLAGS': ''}
  argv = [sys.executable, '-m', 'varjax', 'train', '--config',
          str(experiment), '--workdir', str(tmp_path / 'w'), '--quiet',
          '--config.total.steps=100000']  # fmt: skip
  process = subprocess.Popen(argv, env=environment, cwd=ROOT,
                             stderr=subprocess.PIPE, text=True)  # fmt: skip
  progress = tmp_path / 'w' / 'progress.json'
  deadline = time.monotonic() + 300
  while not (progress.exists() and json.loads(progress.read_text())['step']):
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.1)
  process.send_signal(signal.SIGTERM)
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 143
  assert 'stopped by SIGTERM' in stderr
  assert 'run the same command again' in stderr
  saved = checkpoint.latest_step(tmp_path / 'w')
  assert saved
  said = int(stderr.split('after update ')[1].split()[0])
  assert saved == said


def test_abstract_inputs_are_those_of_a_run(world):
  """What is compiled ahead of time is called with what a run reads."""
  images = world[0]
  for run in (
    tiny.var_run(*world),
    tiny.var_run(*world, input='images'),
    tiny.tokenizer_run(images),
  ):
    mesh = sharding.make_mesh(run.mesh)
    opened = inputs.open_inputs(run, 0, 1)
    real = {'frozen': opened.frozen, 'batch': next(opened.train)}
    shaped = {
      'frozen': abstract.frozen(run, mesh),
      'batch': abstract.batch(run, mesh),
    }
    opened.train.close()
    real, shaped = (
      jax.tree.map(lambda x: (tuple(x.shape), str(x.dtype)), tree)
      for tree in (real, shaped)
    )
    assert real == shaped

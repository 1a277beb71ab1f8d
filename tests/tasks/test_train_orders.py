"""Runs in other orders from training to an edited image."""

import jax
import numpy as np
import pytest
import tiny

from varjax import cli
from varjax.data import sources
from varjax.pipeline import VarPipeline

SETTINGS = {
  'raster': {},
  'permuted': {},
  'masked': {'order.mask_ratio': 'uniform', 'order.turns': 3},
  'setwise': {
    'order.permutation': 'random', 'order.context': 'separate',
    'order.sets': (1, 4, 16),
  },
  'split': {'order.splits': (1, 2, 4)},
  # One code a position: the depth transformer has a single row.
  'residual': {'model.depth_layers': 1},
}  # fmt: skip


# A minute of one core each: training and sampling programs are compiled.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('one_device')]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """(images, tokenizer, codes) of a tokenizer of four updates."""
  root = tmp_path_factory.mktemp('orders')
  images = tiny.write_images(root / 'images')
  tiny.run_to_end(tiny.tokenizer_run(images), root / 'tokenizer')
  assert cli.main(
    [
      'encode', '--tokenizer', str(root / 'tokenizer'), '--quiet',
      '--out', str(root / 'codes'), '--batch_size', '8',
    ]
  ) == 0  # fmt: skip
  return images, root / 'tokenizer', root / 'codes'


@pytest.mark.parametrize('name', sorted(SETTINGS))
def test_a_run_trains_samples_and_edits(world, name, tmp_path):
  run = tiny.var_run(
    *world,
    **{'order.name': name, 'total.steps': 3, 'evaluate.steps': 3},
    **SETTINGS[name],
  )
  record = tiny.run_to_end(run, tmp_path / 'run')
  assert record.order == name
  assert record.loss_kind == ('bound' if name == 'masked' else 'exact')
  assert record.positions_per_image == 21
  assert 0 < record.val_loss_nats_per_token < 2 * np.log(32)
  pipe = VarPipeline.from_workdir(tmp_path / 'run')
  drawn, _ = pipe.sample(np.asarray([0, 1]), jax.random.key(0), cfg=1.0)
  assert drawn.shape == (2, 16, 16, 3)
  assert np.isfinite(drawn).all()
  source = sources.open_source(run.data, 'validation')
  image = np.asarray(source[0]['image'])[None, 2:18, 2:18] / 127.5 - 1
  keep = np.zeros((4, 4), np.float32)
  keep[:2] = 1
  edited, found = pipe.edit(image, [2], keep, jax.random.key(1), cfg=0.0)
  assert edited.shape == (1, 16, 16, 3)
  given = pipe.encode(image)
  if not pipe.mixes:  # Codes as drawn, where there are features.
    np.testing.assert_array_equal(found[-1][0, :2], given[-1][0, :2])

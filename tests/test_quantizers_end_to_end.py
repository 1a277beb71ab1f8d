"""Other quantizers from images to samples, by the commands and the pipeline."""

import jax
import numpy as np
import pytest
import tiny

from varjax import cli, records
from varjax.data import codes
from varjax.pipeline import VarPipeline

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('one_device')]

CASES = {
  'rq': {
    'tokenizer.codes_per_position': 2, 'tokenizer.kmeans_updates': 2,
    'tokenizer.vocab': 16,
  },
  'rq residual': {
    'tokenizer.codes_per_position': 2, 'tokenizer.vocab': 16,
    'order.name': 'residual', 'model.depth_layers': 1, 'model.head_factors': 2,
  },
  'vq': {
    'tokenizer.znorm': True, 'tokenizer.vocab': 16, 'model.head_factors': 2,
    'tokenizer.compute_dtype': 'bfloat16',
  },
  'bsq': {
    'tokenizer.code_dim': 18, 'tokenizer.vocab': 512, 'tokenizer.entropy': 0.1,
    'tokenizer.codes_per_position': 2, 'tokenizer.revive_every': 0,
  },
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_from_images_to_samples(case, tmp_path):
  changes = {
    'tokenizer.kind': case.split()[0], 'tokenizer.scales': (4,),
    'order.name': 'raster', **CASES[case],
  }  # fmt: skip
  images = tiny.write_images(tmp_path / 'images')
  record = tiny.run_to_end(
    tiny.tokenizer_run(images, **changes), tmp_path / 'tok'
  )
  assert record.status == 'complete'
  assert 0 < record.code_usage <= 1
  argv = ['encode', '--tokenizer', str(tmp_path / 'tok'), '--quiet']
  assert cli.main([*argv, '--out', str(tmp_path / 'codes')]) == 0
  per_position = changes.get('tokenizer.codes_per_position', 1)
  source = codes.open_codes(tmp_path / 'codes', 'train')
  assert source[0]['codes'].shape == (16, per_position)

  run = tiny.var_run(
    images, tmp_path / 'tok', tmp_path / 'codes', **changes
  )  # fmt: skip
  record = tiny.run_to_end(run, tmp_path / 'var')
  assert record.status == 'complete'
  # A nearly untrained model: about the entropy of uniform codes.
  uniform = record.codes_per_position * np.log(run.tokenizer.vocab)
  assert record.val_loss_nats_per_token == pytest.approx(uniform, rel=0.2)
  assert records.read(tmp_path / 'var' / 'records.jsonl')

  pipe = VarPipeline.from_workdir(tmp_path / 'var')
  drawn, _ = pipe.sample(np.arange(3), jax.random.key(0), cfg=1.0)
  assert drawn.shape == (3, 16, 16, 3)
  assert np.isfinite(np.asarray(drawn)).all()

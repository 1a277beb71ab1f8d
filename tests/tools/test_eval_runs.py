"""`varjax eval` on real runs of a few updates: scores, curves and bits."""

import json

import numpy as np
import pytest
import tiny
import tiny_network

from varjax import cli, evaluations, features, records
from varjax.tokenizers import artifact

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('one_device')]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """A trained tokenizer and a trained transformer."""
  root = tmp_path_factory.mktemp('world')
  images = tiny.write_images(root / 'images')
  run = tiny.tokenizer_run(images)
  tiny.run_to_end(run, root / 'tokenizer')
  argv = ['encode', '--tokenizer', str(root / 'tokenizer'), '--quiet']
  assert cli.main([*argv, '--out', str(root / 'codes')]) == 0
  run = tiny.var_run(images, root / 'tokenizer', root / 'codes')
  tiny.run_to_end(run, root / 'var')
  return root


@pytest.fixture(autouse=True)
def tiny_features(monkeypatch, tmp_path):
  monkeypatch.setitem(features.NETWORKS, 'tiny', lambda _: tiny_network.make())
  monkeypatch.setenv('VARJAX_CACHE', str(tmp_path / 'cache'))


def run(*argv):
  return cli.main(['eval', *map(str, argv)])


def test_a_tokenizer_is_scored_and_bounded(world, capsys, tmp_path):
  out = tmp_path / 'bits.json'
  assert run('--workdir', world / 'tokenizer', '--bits', '--out', out) == 0
  assert 'bits per dimension, at most' in capsys.readouterr().out
  found = json.loads(out.read_text())['bits_per_dim']
  assert found['codes'] == pytest.approx(21 * 5 / 768)
  assert 0 < found['residual'] < 9
  argv = ('--reference', 'validation', '--features', 'tiny')
  assert run('--workdir', world / 'tokenizer', *argv) == 0
  shown = capsys.readouterr().out
  assert 'rfd_tiny' in shown
  table = records.load(world / 'tokenizer' / 'records.jsonl')
  np.testing.assert_allclose(
    table['psnr_db'][0], table['val_psnr_db'][0], atol=0.1
  )
  assert table['bits_per_dim_bound'][0] == pytest.approx(found['total'])
  scales = json.loads(table['code_usage_scales'][0])
  assert [table[f'codes_used_{k}'][0] for k in (1, 2, 3)] == scales
  for mine, theirs in (('used', 'usage'), ('perplexity', 'perplexity')):
    assert table[f'codes_{mine}'][0] == table[f'code_{theirs}'][0]


def test_a_stopped_tokenizer_is_scored_by_its_checkpoint(world, tmp_path):
  home = tmp_path / 'stopped'
  run_spec = tiny.tokenizer_run(world / 'images', ema=0.5)
  tiny.run_to_end(run_spec, home)
  out = tmp_path / 'whole.json'
  argv = ('--reference', 'validation', '--features', 'tiny', '--workdir', home)
  assert run(*argv, '--out', out) == 0
  whole = json.loads(out.read_text())
  (home / artifact.DESCRIPTION).unlink()
  assert run(*argv, '--out', out) == 0
  stopped = json.loads(out.read_text())
  assert stopped['values'] == whole['values']
  assert stopped['settings']['tokenizer_id'].endswith('at update 4')


def test_a_transformer_is_sampled_scored_and_bounded(world, capsys, tmp_path):
  out = tmp_path / 'bits.json'
  assert run('--workdir', world / 'var', '--bits', '--out', out) == 0
  found = json.loads(out.read_text())
  nats = found['mean']['loss'] * 21
  wanted = nats / np.log(2) / 768
  assert found['bits_per_dim']['codes'] == pytest.approx(wanted)
  argv = (
    '--workdir', world / 'var', '--features', 'tiny', '--reference',
    'validation', '--group', '4', '--sweep', 'cfg=0,2',
    '--plot', tmp_path / 'curve.svg',
  )  # fmt: skip
  assert run(*argv) == 0
  assert (tmp_path / 'curve.svg').stat().st_size > 1000
  capsys.readouterr()
  lines = evaluations.read(world / 'var' / evaluations.FILE)
  assert [line.kind for line in lines] == ['codelength', 'samples', 'samples']
  # Our file is what the evaluator of guided-diffusion reads.
  packed = next((world / 'var' / 'samples').glob('*.npz'))
  images = np.load(packed)['arr_0']
  assert images.dtype == np.uint8
  assert images.shape == (12, 16, 16, 3)
  assert run(
    '--samples', packed, '--reference', 'folder:validation', '--data_dir',
    world / 'images', '--features', 'tiny',
  ) == 0  # fmt: skip

"""Official checkpoints into folders, through the commands, and back."""

import dataclasses
import json

import jax
import numpy as np
from official_states import states
import parity_case
import pytest
import tiny
import torch_writer

from varjax import checkpoint, cli, errors, sharding
from varjax.interop import official_vae, pth, workdirs
from varjax.pipeline import VarPipeline
from varjax.workdir import Workdir


def call(*argv):
  assert cli.main([str(a) for a in argv]) == 0


def same_weights(found, expected):
  """Equal to the bit; buffers that training leaves out may be added."""
  for name, value in expected.items():
    if name == official_vae.USAGE_BUFFER:
      continue
    assert found[name].tobytes() == np.ascontiguousarray(value).tobytes(), name
    assert found[name].shape == value.shape, name
  extra = found.keys() - expected.keys()
  assert extra <= {'attn_bias_for_masking', official_vae.USAGE_BUFFER}


def round_trip(vae, var, tmp_path, *options):
  """Import, export, import: both folders and both exports."""
  torch_writer.save(tmp_path / 'vae.pth', vae)
  torch_writer.save(tmp_path / 'var.pth', var)
  call('import-official', '--vae', tmp_path / 'vae.pth', '--var',
       tmp_path / 'var.pth', '--out', tmp_path / 'one', *options)  # fmt: skip
  call('export-official', '--workdir', tmp_path / 'one/model', '--out',
       tmp_path / 'out')  # fmt: skip
  out = tmp_path / 'out'
  again = ['--out', tmp_path / 'two', *options]
  for vae_file, var_file in (
    ('vae.safetensors', 'var.safetensors'),
    ('official.npz', 'official.npz'),
  ):
    files = ['--vae', out / vae_file, '--var', out / var_file]
    call('import-official', *files, *again)
  for part, state in (('vae', vae), ('var', var)):
    for file in (f'{part}.safetensors', 'official.npz'):
      same_weights(pth.read_state(out / file, part), state)
  one, two = (Workdir(tmp_path / n / 'model') for n in ('one', 'two'))
  assert one.run_id() == two.run_id()
  assert one.run() == dataclasses.replace(
    two.run(), tokenizer_dir=str(tmp_path / 'one/tokenizer')
  )
  described = [
    json.loads((tmp_path / n / 'tokenizer/tokenizer.json').read_text())
    for n in ('one', 'two')
  ]
  assert described[0] == described[1]
  found, expected = (
    checkpoint.load_params(w.path, ('params',)) for w in (two, one)
  )
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
  'changes',
  [
    {'ch_mult': (1, 2, 1), 'shared_aln': True},
    {'share_quant_resi': 0, 'shared_aln': False, 'attn_l2_norm': False},
    {'share_quant_resi': 1, 'patch_nums': (2, 3, 4)},
  ],
)
def test_random_models_survive_to_the_bit(changes, tmp_path):
  vae, var = states(**changes)
  options = ['--norm_groups', 4]
  if not changes.get('attn_l2_norm', True):
    options += ['--num_heads', 3]
  round_trip(vae, var, tmp_path, *options)


@pytest.mark.parametrize('name', ['open_a', 'open_b', 'open_c'])
def test_official_models_survive_to_the_bit(name, parity_dir, tmp_path):
  case = parity_case.load(parity_dir, name)
  options = ['--num_heads', case.config['num_heads']]
  if case.config['using_znorm']:
    options.append('--using_znorm')
  round_trip(case.vae, case.var, tmp_path, *options)


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
  """An imported tiny model with three classes, and images for it."""
  root = tmp_path_factory.mktemp('imported')
  images = tiny.write_images(root / 'images')
  vae, var = states(num_classes=3)
  torch_writer.save(root / 'vae.pth', vae)
  torch_writer.save(root / 'var.pth', var)
  call('import-official', '--vae', root / 'vae.pth', '--var', root / 'var.pth',
       '--out', root / 'run', '--norm_groups', 4, '--dataset', 'folder',
       '--data_dir', images)  # fmt: skip
  return root


def test_an_import_can_be_sampled_and_evaluated(imported):
  workdir = imported / 'run/model'
  run = Workdir(workdir).run()
  assert run.sample == dataclasses.replace(
    run.sample, cfg=1.5, top_k=900, top_p=0.96
  )
  assert checkpoint.latest_step(workdir) == 0
  call('sample', '--workdir', workdir, '--out', imported / 'x.png')
  assert (imported / 'x.png').stat().st_size > 100
  call('eval', '--workdir', workdir, '--out', imported / 'eval.json')
  result = json.loads((imported / 'eval.json').read_text())
  assert result['images'] == 12
  assert result['step'] == 0
  assert np.isfinite(result['mean']['loss'])


def test_an_import_can_be_fine_tuned(imported, tmp_path, monkeypatch):
  make_mesh = sharding.make_mesh
  monkeypatch.setattr(
    sharding, 'make_mesh', lambda spec: make_mesh(spec, jax.devices()[:1])
  )
  model = imported / 'run/model'
  # What a person writes: an experiment that differs in its length.
  experiment = tmp_path / 'fine_tune.py'
  experiment.write_text(
    'import pathlib\nfrom varjax import config\n'
    'from varjax.workdir import Workdir\n'
    'def get_config(arg):\n'
    f'  run = Workdir(pathlib.Path({str(model)!r})).run()\n'
    '  return config.as_config(run)\n'
  )
  call('train', '--config', experiment, '--workdir', tmp_path / 'w', '--quiet',
       f'--config.init_from={model}', '--config.total.steps=1',
       '--config.batch_size=8', '--config.optim.lr=1e-30')  # fmt: skip
  before, after = (
    checkpoint.load_params(p, ('params',)) for p in (model, tmp_path / 'w')
  )
  jax.tree.map(np.testing.assert_array_equal, after, before)
  assert checkpoint.latest_step(tmp_path / 'w') == 1


def test_folder_and_files_are_the_same_pipeline(imported):
  one = VarPipeline.from_workdir(imported / 'run/model')
  two = VarPipeline.from_official(
    imported / 'vae.pth', imported / 'var.pth', norm_groups=4
  )
  assert one.model == two.model
  assert one.tokenizer.spec == two.tokenizer.spec
  jax.tree.map(np.testing.assert_array_equal, one._weights, two._weights)


def test_another_import_does_not_overwrite(imported, capsys):
  run = imported / 'run'
  before = {p: p.stat().st_mtime_ns for p in run.rglob('*') if p.is_file()}
  vae, _ = states(num_classes=3)
  vae['quant_conv.bias'] = vae['quant_conv.bias'] + 1
  torch_writer.save(imported / 'vae2.pth', vae)
  options = ['--var', str(imported / 'var.pth'), '--out', str(run),
             '--norm_groups', '4']  # fmt: skip
  argv = ['import-official', '--vae', str(imported / 'vae2.pth'), *options]
  assert cli.main(argv) == 2
  assert 'choose another --out' in capsys.readouterr().err
  assert before == {
    p: p.stat().st_mtime_ns for p in run.rglob('*') if p.is_file()
  }


@pytest.mark.parametrize(
  ('options', 'said'),
  [
    (['--vae', 'none.pth'], 'cannot be opened'),
    (['--patch_nums', '1,2x'], '--patch_nums'),
    (['--patch_nums', '1,2,3'], 'pos_1LC'),
    (['--norm_groups', '5'], 'norm_groups=5'),
    (['--num_heads', '4'], 'scale_mul_1H11'),
  ],
)
def test_bad_input_is_one_sentence(imported, capsys, options, said, tmp_path):
  argv = ['import-official', '--vae', str(imported / 'vae.pth'), '--var',
          str(imported / 'var.pth'), '--out', str(tmp_path / 'out'),
          '--norm_groups', '4', *options]  # fmt: skip
  assert cli.main(argv) == 2
  err = capsys.readouterr().err
  assert said in err
  assert len(err.strip().splitlines()) == 1
  assert not (tmp_path / 'out').exists()


def test_a_wrong_shape_leaves_nothing_behind(imported, tmp_path, capsys):
  _, var = states(num_classes=3)
  var['blocks.1.ffn.fc1.bias'] = var['blocks.1.ffn.fc1.bias'][:-1]
  torch_writer.save(tmp_path / 'var.pth', var)
  argv = ['import-official', '--vae', str(imported / 'vae.pth'), '--var',
          str(tmp_path / 'var.pth'), '--out', str(tmp_path / 'out'),
          '--norm_groups', '4']  # fmt: skip
  assert cli.main(argv) == 2
  assert 'blocks.1.ffn.fc1.bias: has shape' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_export_needs_a_run(tmp_path):
  with pytest.raises(errors.CheckpointError, match=r'run\.json'):
    workdirs.official_states(tmp_path)

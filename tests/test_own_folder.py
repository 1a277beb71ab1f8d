"""docs/tokenizer_training.md, typed as it stands: a folder to scored samples.

Options that shrink a run for a test are added behind each command; nothing
of what the page says is taken away.
"""

import json
import pathlib
import re
import shlex

import numpy as np
from PIL import Image
import pytest
import tiny

from varjax import cli, records

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'tokenizer_training.md'
SECTION = re.compile(r'## From a folder to samples\n(.*?)\n### ', re.DOTALL)

_RUN = {
  'batch_size': 4, 'total.steps': 3, 'evaluate.frac': 1.0,
  'checkpoint.frac': 1.0, 'log.steps': 1, 'optim.warmup.steps': 1,
  # The commands name a resolution of 128, whose grids are these.
  'tokenizer.ch': 8, 'tokenizer.norm_groups': 4, 'tokenizer.vocab': 32,
  'tokenizer.num_res_blocks': 1, 'tokenizer.attention': False,
  'tokenizer.code_dim': 8, 'tokenizer.compute_dtype': 'float32',
  'tokenizer.kmeans_updates': 2, 'tokenizer.revive_every': 1,
}  # fmt: skip
_TOKENIZER = {
  'reconstruct.adversarial.ch': 4,
  'reconstruct.adversarial.start.steps': 1,
}
_VAR = {
  'model.depth': 2, 'model.width': 16, 'model.heads': 2,
  'model.num_classes': len(tiny.CLASSES), 'model.compute_dtype': 'float32',
}  # fmt: skip


def _commands():
  """The shell lines of the section, without the prompt's `varjax`."""
  [text] = SECTION.findall(PAGE.read_text())
  for block in re.findall(r'```sh\n(.*?)```', text, re.DOTALL):
    for line in block.strip().splitlines():
      words = shlex.split(line)
      assert words[0] == 'varjax'
      yield words[1:]


def _shrunk(argv):
  overrides = {}
  if argv[0] == 'train':
    overrides = _RUN | (_VAR if 'codes_dir' in ' '.join(argv) else _TOKENIZER)
  more = [f'--config.{key}={value}' for key, value in overrides.items()]
  if argv[0] == 'eval' and 'W/d8' in argv:
    more += ['--images', '6', '--group', '3']
  return [*argv, *more]


def test_the_page_has_every_step():
  steps = [argv[0] for argv in _commands()]
  assert steps == [
    'train', 'train', 'eval', 'encode', 'train', 'sample', 'eval',
  ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_a_folder_becomes_scored_samples(tmp_path, monkeypatch, capsys):
  tiny.write_images(tmp_path / 'photos')
  repository = PAGE.parents[1]
  (tmp_path / 'experiments').symlink_to(repository / 'experiments')
  monkeypatch.chdir(tmp_path)
  for argv in _commands():
    assert cli.main(_shrunk(argv)) == 0, argv
  shown = capsys.readouterr().out
  for name in ('psnr_db', 'codes_used', 'kd_efflite0'):
    assert name in shown
  work = tmp_path / 'W'
  [tokenizer] = records.read(work / 'tokenizer' / 'records.jsonl')
  [var] = records.read(work / 'd8' / 'records.jsonl')
  assert tokenizer.status == var.status == 'complete'
  assert var.tokenizer_id == tokenizer.tokenizer_id
  assert len(json.loads(tokenizer.code_usage_scales)) == 10
  assert (work / 'tokenizer' / 'reconstruction.png').exists()
  samples = np.asarray(Image.open(work / 'samples.png').convert('RGB'))
  assert samples.std() > 0

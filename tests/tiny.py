"""A tiny world for end-to-end tests: images, a tokenizer, codes, a VAR."""

import pathlib

import numpy as np
from PIL import Image

from varjax import config, runs, train
from varjax import spec as specs
from varjax.artifacts import FINISH, score_images
from varjax.records import RunRecord
from varjax.workdir import Workdir

CLASSES = ('circle', 'square', 'stripe')


def write_images(root: pathlib.Path) -> pathlib.Path:
  """A folder of class folders with 30 train and 12 validation images."""
  rng = np.random.default_rng(0)
  grid = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1)
  for split, count in (('train', 10), ('validation', 4)):
    for label, name in enumerate(CLASSES):
      folder = root / split / name
      folder.mkdir(parents=True)
      for index in range(count):
        colour = rng.integers(60, 255, 3)
        centre = rng.uniform(6, 14, 2)
        away = np.abs(grid - centre)
        shape = (
          (away**2).sum(-1) < 25,
          away.max(-1) < 5,
          (grid.sum(-1) // 3) % 2 == 0,
        )[label]
        image = np.where(shape[..., None], colour, 20).astype(np.uint8)
        Image.fromarray(image).save(folder / f'{index}.png')
  return root


def tokenizer_run(images: pathlib.Path, **overrides) -> specs.RunSpec:
  """A stage-1 run of a few updates."""
  return _run(
    {
      'task': 'reconstruct',
      'total.steps': 4,
      'evaluate.steps': 2,
      'checkpoint.steps': 2,
      'log.steps': 1,
      'optim.lr': 1e-3,
      'tokenizer.revive_every': 2,
      **overrides,
    },
    images,
  )


def var_run(
  images: pathlib.Path,
  tokenizer: pathlib.Path,
  codes: pathlib.Path,
  **overrides,
) -> specs.RunSpec:
  """A stage-2 run of a few updates."""
  return _run(
    {
      'task': 'generate',
      'total.steps': 6,
      'evaluate.steps': 3,
      'checkpoint.steps': 2,
      'log.steps': 2,
      'optim.lr': 1e-2,
      'tokenizer_dir': str(tokenizer),
      'codes_dir': str(codes),
      'tokenizer.revive_every': 2,
      **overrides,
    },
    images,
  )


def run_to_end(run: specs.RunSpec, path: pathlib.Path) -> RunRecord:
  """What `varjax train` does with a run, in this process."""
  workdir = Workdir(path)
  resolved = runs.resolve(run)
  workdir.claim(run, resolved.run_id)
  return train.train(
    run,
    workdir,
    resolved,
    FINISH[run.task],
    score=score_images,
    quiet=True,
  )


def _run(values: dict, images: pathlib.Path) -> specs.RunSpec:
  base = {
    'batch_size': 8,
    'data.name': 'folder',
    'data.data_dir': str(images),
    'data.resolution': 16,
    'tokenizer.ch': 8,
    'tokenizer.ch_mult': (1, 1, 1),
    'tokenizer.num_res_blocks': 1,
    'tokenizer.norm_groups': 4,
    'tokenizer.code_dim': 8,
    'tokenizer.vocab': 32,
    'tokenizer.scales': (1, 2, 4),
    'model.depth': 2,
    'model.width': 16,
    'model.heads': 2,
    'model.num_classes': 3,
    'model.drop_path': 0.1,
    'model.compute_dtype': 'float32',
    'optim.warmup.steps': 1,
  }
  loaded = config.override(config.default_config(), {**base, **values})
  return config.to_spec(loaded, 'tiny')

"""A small run to be disturbed, made without training anything first."""

import pathlib

from flax.core import meta
import jax
import numpy as np
import tiny

from varjax import metrics, tokenizers
from varjax import spec as specs
from varjax.data import encode, sources
from varjax.tokenizers import artifact

STEPS = 6
_SMALL = {
  'model.depth': 1,
  'total.steps': STEPS,
  'evaluate.steps': STEPS,
  'checkpoint.steps': 2,
  'log.steps': 1,
}
World = tuple[pathlib.Path, pathlib.Path, pathlib.Path]


def write_world(root: pathlib.Path) -> World:
  """Images, a tokenizer of random weights, and codes drawn from a hat."""
  images = tiny.write_images(root / 'images')
  run = tiny.tokenizer_run(images)
  draw = np.random.default_rng(0)
  tokenizer = tokenizers.make_tokenizer(run.tokenizer, run.data.resolution)
  shapes = jax.eval_shape(lambda k: tokenizer.init(k, 16), jax.random.key(0))
  weights = jax.tree.map(
    lambda x: draw.normal(size=x.shape).astype(np.float32), meta.unbox(shapes)
  )
  identifier = artifact.save(root / 'tok', run.tokenizer, run.data, weights)
  for split in ('train', 'validation'):
    encode.encode_split(
      lambda images: draw.integers(0, 32, (len(images), 21, 1)),
      sources.open_source(run.data, split),
      root / 'codes',
      tokenizer_id=identifier,
      code_spec=tokenizer.code_spec,
      data_spec=run.data,
      split=split,
    )
  return images, root / 'tok', root / 'codes'


def small_run(world: World, **overrides) -> specs.RunSpec:
  """Six updates of a transformer, with a checkpoint after every second."""
  return tiny.var_run(*world, **(_SMALL | overrides))


def command(world: World, folder: pathlib.Path, **overrides) -> list[str]:
  """`varjax train` of `small_run`, into `folder`/run."""
  places = [str(place) for place in world]
  folder.mkdir(parents=True, exist_ok=True)
  experiment = folder / 'experiment.py'
  experiment.write_text(
    'import pathlib\nfrom faults import runs\nfrom varjax import config\n'
    'def get_config(arg):\n'
    f'  world = tuple(map(pathlib.Path, {places!r}))\n'
    f'  return config.as_config(runs.small_run(world, **{overrides!r}))\n'
  )
  return ['train', '--config', str(experiment), '--workdir',
          str(folder / 'run'), '--quiet']  # fmt: skip


def losses(path: pathlib.Path) -> dict[int, float]:
  """Logged training losses of a workdir, by update."""
  rows = metrics.read(path)
  return {r['step']: r['train/loss'] for r in rows if 'train/loss' in r}

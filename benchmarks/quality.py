"""What a run of the comparison of orders is worth: likelihood, samples, speed.

Read by paradigms.py and parallelism.py. Speed is in images for each second of
CPU time, of all cores: other work on the machine hardly changes it, unlike
the time on the wall. The perceptual distance is KID in the features of the
packaged EfficientNet-Lite0 (varjax/evals/kid.py): a Frechet distance of some
hundred images in 1,280 dimensions would be that of singular covariances.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
import re
import time
from typing import Any

import jax
import numpy as np

from varjax import decode_costs, errors, features, records
from varjax.data import preprocess, sources
from varjax.evals import bits, kid
from varjax.orders import make_order, sequence_of
from varjax.pipeline import VarPipeline
from varjax.spec import DataSpec
from varjax.tokenizers import artifact
from varjax.workdir import Workdir

BATCH = 32  # Of sampling, for all orders.
_NETWORK = 'efflite0'
_TRAIN_IMAGES = 512  # For the widths of the residuals.
_REPEATS = 3

Row = dict[str, Any]


def measured(
  sweep: pathlib.Path,
  kept: pathlib.Path,
  samples: int,
  *,
  only: str = '*',
  turns: int = 0,
) -> list[Row]:
  """A row for every complete run of a sweep; prints what is new.

  Args:
    sweep: workdir of `varjax sweep`.
    kept: file of rows, which are not measured again.
    samples: images to sample; 0 leaves speed and distance out.
    only: pattern of the names of trials.
    turns: passes of a masked order; 0 is what its run says.

  Raises:
    DataError: no complete run.
  """
  rows = []
  if kept.is_file():
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
  known = {(row['run_id'], row['turns']): row for row in rows}
  found = {
    (record.run_id, turns): (file.parent, record)
    for file in sorted(sweep.glob(f'trials/{only}/records.jsonl'))
    for record in records.latest(records.read(file))
    if record.status == 'complete'
  }
  if not found:
    raise errors.DataError(f'{sweep}: no complete run; train the sweep first')
  for key, (path, record) in found.items():
    if key in known:
      continue
    known[key] = _measure(path, record, samples, turns)
    with kept.open('a') as file:
      file.write(json.dumps(known[key]) + '\n')
    print(json.dumps(known[key]), flush=True)
  return [known[key] for key in found]


def _measure(
  path: pathlib.Path, record: records.RunRecord, samples: int, turns: int
) -> Row:
  run = Workdir(path).run()
  pipe = VarPipeline.from_workdir(path)
  if turns:
    order = dataclasses.replace(run.order, turns=turns)
    pipe.order = make_order(order, run.tokenizer)
  residual, residual_sem, lossless = _residual(run.tokenizer_dir)
  values = run.data.resolution**2 * 3
  code_nats = record.val_loss_nats_per_token * record.positions_per_image
  sem_nats = record.val_loss_sem * record.positions_per_image
  costs = decode_costs.decode_costs(
    run.model,
    sequence_of(run.order, run.tokenizer),
    cached=pipe.order.cached,
    turns=0 if pipe.order.cached else pipe.order.turns,
  )
  named = re.search(r'([a-z]+)-(d\d+)', run.name)
  row = {
    'paradigm': named[1] if named else run.order.name,
    'size': named[2] if named else f'd{run.model.depth}',
    'run_id': record.run_id,
    'turns': turns,
    'git_commit': record.git_commit,
    'order': record.order,
    'loss_kind': record.loss_kind,
    'tokenizer_id': record.tokenizer_id,
    'lossless': lossless,
    # Codes and images of the same split have hashes of their own.
    'eval_set': f'{record.dataset}-{record.val_images}',
    'scales': len(run.tokenizer.scales),
    'positions': record.positions_per_image,
    'params_body': record.params_body,
    'params_total': record.params_total,
    'flops_train_total': record.flops_train_total,
    'images_seen': record.images_seen,
    'updates': record.steps,
    'code_nats': code_nats,
    'code_nats_sem': sem_nats,
    'bits_per_dim': _per_dim(code_nats + residual, values),
    # Codes and residual of an image are not independent: the errors add.
    'bits_per_dim_sem': _per_dim(sem_nats + residual_sem, values),
    'bits_per_dim_code_sem': _per_dim(sem_nats, values),
    'sequential_steps': pipe.order.turns + costs.depth_steps,
    'depth_steps': costs.depth_steps,
    'flops_sample': costs.flops,
    'train_wall_s': record.wall_s,
  }
  if not samples:
    return row
  images = _sample(pipe, run.data, samples)
  reference = _reference(run.data, samples)
  return row | _distance(images, reference) | _speed(pipe)


def _sample(pipe: VarPipeline, data: DataSpec, count: int) -> np.ndarray:
  """Images in [0, 255] of the classes of validation images."""
  source = sources.open_source(data, 'validation')
  labels = np.asarray([source[i]['label'] for i in _spread(source, count)])
  return pipe.sample_batches(labels, 0, BATCH, cfg=0.0) * 255


def _speed(pipe: VarPipeline) -> Row:
  """Sampling whole batches, with the cache of the order."""
  labels = np.arange(BATCH) % pipe.num_classes
  jax.block_until_ready(pipe.sample(labels, jax.random.key(0), cfg=0.0))
  times = []
  for repeat in range(_REPEATS):
    start = time.process_time()
    jax.block_until_ready(pipe.sample(labels, jax.random.key(repeat), cfg=0.0))
    times.append(time.process_time() - start)
  return {'images_per_cpu_s': BATCH / min(times)}


def _distance(images: np.ndarray, reference: np.ndarray) -> Row:
  """KID of images in [0, 255] with its bootstrap error."""
  found = descriptors(np.rint(images))
  return {
    'samples': len(images),
    'kid': kid.squared_mmd(found, reference),
    'kid_sem': float(kid.bootstrap(found, reference).std(ddof=1)),
  }


def baselines(root: pathlib.Path, run: pathlib.Path, samples: int) -> list[Row]:
  """What the numbers of runs are to be held against.

  Training images in place of samples, the reconstructions of the validation
  images by every tokenizer below `root`, and the bits per dimension of one
  histogram for each channel, which no transformer should be above.
  """
  data = Workdir(run).run().data
  reference = _reference(data, samples)
  train = crops(data, 'train', 0)
  rng = np.random.default_rng(0)
  chosen = train[rng.choice(len(train), len(reference), replace=False)]
  rows: list[Row] = [
    {'what': 'training images', **_distance(chosen, reference)}
  ]
  for folder in sorted(root.glob('*/tokenizer.json')):
    images, shown = reconstructions(str(folder.parent), 'validation', 0)
    residual, _, lossless = _residual(str(folder.parent))
    row = {'what': f'reconstructions, {folder.parent.name}'}
    if not lossless:
      rows.append({
        **row,
        **_distance(shown, reference),
        'psnr': float(_psnr(images, shown)),
        'bits_per_dim': _per_dim(residual, images[0].size),
      })  # fmt: skip
  rows.append({
    'what': 'one histogram per channel',
    'bits_per_dim': _histogram_bits(train, crops(data, 'validation', 0)),
  })  # fmt: skip
  return rows


def _histogram_bits(train: np.ndarray, images: np.ndarray) -> float:
  found = []
  for channel in range(3):
    counts = np.bincount(train[..., channel].ravel(), minlength=256) + 1
    logs = np.log2(counts / counts.sum())
    found.append(-logs[images[..., channel]].mean())
  return float(np.mean(found))


def _psnr(images: np.ndarray, shown: np.ndarray) -> float:
  square = (images.astype(np.float64) - shown) ** 2
  return float((10 * np.log10(255**2 / square.mean((1, 2, 3)))).mean())


@functools.cache
def _residual(tokenizer_dir: str) -> tuple[float, float, bool]:
  """Nats of validation images given their codes: mean, error, none at all."""
  images, shown = reconstructions(tokenizer_dir, 'validation', 0)
  if np.array_equal(np.rint(shown), images):
    return 0.0, 0.0, True
  residual = bits.fit(*reconstructions(tokenizer_dir, 'train', _TRAIN_IMAGES))
  nats = residual.bits(images, shown) * math.log(2)
  return float(nats.mean()), float(nats.std(ddof=1) / len(nats) ** 0.5), False


@functools.cache
def reconstructions(
  tokenizer_dir: str, split: str, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [n, H, W, 3] and what a tokenizer makes of them, [0, 255]."""
  trained = artifact.load(tokenizer_dir)
  made = trained.tokenizer
  params = jax.device_put(trained.params)

  @jax.jit
  def decode(params, images):
    return made.decode(params, made.encode(params, images))

  images = crops(trained.data, split, count)
  batches = np.array_split(images, math.ceil(len(images) / 256))
  shown = [
    np.asarray(decode(params, batch.astype(np.float32) / 127.5 - 1))
    for batch in batches
  ]
  return images, (np.concatenate(shown).astype(np.float64) + 1) * 127.5


def _per_dim(nats: float, values: int) -> float:
  return nats / (math.log(2) * values)


@functools.cache
def _reference(data: DataSpec, count: int) -> np.ndarray:
  return descriptors(crops(data, 'validation', count))


def crops(data: DataSpec, split: str, count: int) -> np.ndarray:
  """Centre crops uint8 [n, H, W, 3], spread over a split; 0 is all of it."""
  source = sources.open_source(data, split)
  return np.stack(
    [
      preprocess.center_crop(source[i]['image'], data)
      for i in _spread(source, count)
    ]
  )


def _spread(source: sources.Source, count: int) -> list[int]:
  last = len(source) - 1
  index = np.linspace(0, last, min(count or last + 1, last + 1))
  return [int(i) for i in np.round(index)]


@functools.cache
def _network():
  network = features.load(_NETWORK)
  return network, jax.jit(lambda p, x: network.apply(p, x).pooled)


def descriptors(images: np.ndarray) -> np.ndarray:
  """Features [n, 1280] of images in [0, 255]."""
  network, apply = _network()
  found = []
  for start in range(0, len(images), BATCH):
    batch = images[start : start + BATCH]
    full = np.resize(batch, (BATCH, *batch.shape[1:]))
    found.append(np.asarray(apply(network.params, full))[: len(batch)])
  return np.concatenate(found)


def distance(row: Row) -> str:
  """The KID of a row with its error, as a cell of a table."""
  if math.isnan(row.get('kid', math.nan)):
    return '–'
  return f'{row["kid"]:.3f} ± {row["kid_sem"]:.3f}'


def speed(row: Row) -> str:
  """Images per CPU second of a row, as a cell of a table."""
  found = row.get('images_per_cpu_s', math.nan)
  return '–' if math.isnan(found) else f'{found:.1f}'

"""Measures the runs of sweeps/paradigms.py and writes their comparison.

  python benchmarks/paradigms.py runs/paradigms --out docs

Reads the sweep below ROOT/sweep. Prints one JSON line per run and keeps them
in ROOT/measured.jsonl, so that a second call measures only what is new.
Writes OUT/paradigms_table.md and OUT/images/paradigms.png. Speed is in images
for each second of CPU time, of all cores: other work on the machine hardly
changes it, unlike the time on the wall. KID is by EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import pathlib
import time
from typing import Any

import jax
import numpy as np
import pandas as pd

from varjax import compilation, decode_costs, errors, features, records
from varjax.data import preprocess, sources
from varjax.evals import bits, kid
from varjax.orders import sequence_of
from varjax.pipeline import VarPipeline
from varjax.scaling import paradigms
from varjax.tokenizers import artifact
from varjax.workdir import Workdir

_NETWORK = 'efflite0'
_TRAIN_IMAGES = 512  # for the widths of the residuals
_BATCH = 32
_COLOURS = {
  'scale': 'tab:blue', 'raster': 'tab:orange', 'permuted': 'tab:green',
  'masked': 'tab:red', 'pixels': 'tab:purple',
}  # fmt: skip


def main() -> None:
  """Measures, then writes the table and the figure."""
  args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  args.add_argument('root', type=pathlib.Path)
  args.add_argument('--out', type=pathlib.Path, required=True)
  args.add_argument('--sampled', default='d5', help='sizes to sample from')
  args.add_argument('--samples', type=int, default=128, help='0: no KID')
  given = args.parse_args()
  compilation.enable_cache()
  kept = given.root / 'measured.jsonl'
  rows = _read(kept)
  for path, record in _records(given.root / 'sweep'):
    if record.run_id in {row['run_id'] for row in rows}:
      continue
    sampled = tuple(given.sampled.split(','))
    row = _measure(path, record, sampled, given.samples)
    rows.append(row)
    with kept.open('a') as file:
      file.write(json.dumps(row) + '\n')
    print(json.dumps(row), flush=True)
  table = pd.DataFrame(rows).sort_values(['paradigm', 'params_body'])
  (given.out / 'images').mkdir(parents=True, exist_ok=True)
  (given.out / 'paradigms_table.md').write_text(_report(table))
  _draw(table, given.out / 'images' / 'paradigms.png')


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
  if not path.is_file():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def _records(
  sweep: pathlib.Path,
) -> list[tuple[pathlib.Path, records.RunRecord]]:
  """Workdirs and records of the complete runs of a sweep."""
  found = []
  for file in sorted(sweep.glob('trials/*/records.jsonl')):
    for record in records.latest(records.read(file)):
      if record.status == 'complete':
        found.append((file.parent, record))
  if not found:
    raise errors.DataError(f'{sweep}: no complete run; train the sweep first')
  return found


def _named(record: records.RunRecord, folder: str) -> records.RunRecord:
  import dataclasses

  return dataclasses.replace(record, name=folder)


def _measure(
  path: pathlib.Path,
  record: records.RunRecord,
  sampled: tuple[str, ...],
  samples: int,
) -> dict[str, Any]:
  pipe = VarPipeline.from_workdir(path)
  run = Workdir(path).run()
  paradigm = run.name.split('-')[-2]
  residual, lossless = _residual(run.tokenizer_dir)
  values = run.data.resolution**2 * 3
  code_nats = record.val_loss_nats_per_token * record.positions_per_image
  sem_nats = record.val_loss_sem * record.positions_per_image
  costs = decode_costs.decode_costs(
    run.model,
    sequence_of(run.order, run.tokenizer),
    cached=pipe.order.cached,
    turns=0 if pipe.order.cached else pipe.order.turns,
  )
  row = {
    'paradigm': paradigm,
    'size': run.name.rpartition('-')[2],
    'run_id': record.run_id,
    'order': record.order,
    'loss_kind': record.loss_kind,
    'tokenizer_id': record.tokenizer_id,
    'lossless': lossless,
    # Codes and images of the same split have hashes of their own.
    'eval_set': f'{record.dataset}-{record.val_images}',
    'params_body': record.params_body,
    'params_total': record.params_total,
    'flops_train_total': record.flops_train_total,
    'images_seen': record.images_seen,
    'code_nats': code_nats,
    'code_nats_sem': sem_nats,
    'code_bits_per_dim': _per_dim(code_nats, values),
    'bits_per_dim': _per_dim(code_nats + residual, values),
    'bits_per_dim_sem': _per_dim(sem_nats, values),
    'sequential_steps': pipe.order.turns,
    'flops_sample': costs.flops,
    'train_wall_s': record.wall_s,
  }
  if row['size'] not in sampled:
    return row
  labels = np.arange(_BATCH) % pipe.num_classes
  pipe.sample(labels, jax.random.key(0), cfg=0.0)  # compiles
  start = time.process_time()
  jax.block_until_ready(pipe.sample(labels, jax.random.key(1), cfg=0.0))
  row['images_per_cpu_s'] = _BATCH / (time.process_time() - start)
  if samples:
    labels = np.arange(samples) % pipe.num_classes
    images = pipe.sample_batches(labels, 0, _BATCH, cfg=0.0)
    found = kid.estimate(
      _descriptors(np.rint(images * 255)),
      _reference(json.dumps(run.data.__dict__, sort_keys=True), path, samples),
    )
    row |= {'kid': found.value, 'kid_error': found.error, 'samples': samples}
  return row


@functools.cache
def _residual(tokenizer_dir: str) -> tuple[float, bool]:
  """Mean nats of validation images given their codes; whether it is 0."""
  trained = artifact.load(tokenizer_dir)
  made = trained.tokenizer
  params = jax.device_put(trained.params)

  @jax.jit
  def decode(params, images):
    return made.decode(params, made.encode(params, images))

  def both(split, count):
    images = _crops(trained.data, split, count)
    batches = np.array_split(images, math.ceil(len(images) / 256))
    shown = [np.asarray(decode(params, b.astype(np.float32) / 127.5 - 1))
             for b in batches]  # fmt: skip
    return images, (np.concatenate(shown).astype(np.float64) + 1) * 127.5

  images, shown = both('validation', 0)
  if np.array_equal(np.rint(shown), images):
    return 0.0, True
  residual = bits.fit(*both('train', _TRAIN_IMAGES))
  return float(residual.bits(images, shown).mean()) * math.log(2), False


def _per_dim(nats: float, values: int) -> float:
  return nats / (math.log(2) * values)


@functools.cache
def _reference(key: str, path: pathlib.Path, count: int) -> np.ndarray:
  del key  # What the cache is by.
  return _descriptors(_crops(Workdir(path).run().data, 'validation', 2 * count))


def _crops(data, split: str, count: int) -> np.ndarray:
  source = sources.open_source(data, split)
  index = np.linspace(0, len(source) - 1, min(count or 10**9, len(source)))
  return np.stack(
    [preprocess.center_crop(source[int(i)]['image'], data) for i in index]
  )


@functools.cache
def _network():
  network = features.load(_NETWORK)
  return network, jax.jit(lambda p, x: network.apply(p, x).pooled)


def _descriptors(images: np.ndarray) -> np.ndarray:
  network, apply = _network()
  found = []
  for start in range(0, len(images), 32):
    batch = images[start : start + 32]
    full = np.resize(batch, (32, *batch.shape[1:]))
    found.append(np.asarray(apply(network.params, full))[: len(batch)])
  return np.concatenate(found)


def _report(table: pd.DataFrame) -> str:
  lines = [
    '| order | size | body | FLOPs | images | nats of codes | loss is | '
    'bits/dim | KID | steps | FLOPs/sample | images/CPU s | run |',
    '|---|---|---|---|---|---|---|---|---|---|---|---|---|',
  ]
  for row in table.itertuples():
    paradigm = _paradigm(table, row.paradigm)
    kind = paradigms.kind_of(paradigm, 'bits_per_dim')
    sign = '' if kind == 'exact' else '≤ '
    distance = '–'
    if not math.isnan(getattr(row, 'kid', math.nan)):
      distance = f'{row.kid:.3f} ± {row.kid_error:.3f}'
    speed = getattr(row, 'images_per_cpu_s', math.nan)
    lines.append(
      f'| {row.paradigm} | {row.size} | {row.params_body:,} | '
      f'{row.flops_train_total:.3g} | {row.images_seen:,} | '
      f'{row.code_nats:.1f} ± {row.code_nats_sem:.1f} | {row.loss_kind} | '
      f'{sign}{row.bits_per_dim:.3f} | {distance} | {row.sequential_steps} | '
      f'{row.flops_sample:.2g} | '
      f'{"–" if math.isnan(speed) else f"{speed:.1f}"} | {row.run_id} |'
    )
  lines += ['', *_exponents(table), '', *_verdicts(table), '']
  return '\n'.join(lines)


def _paradigm(table: pd.DataFrame, name: str) -> paradigms.Paradigm:
  row = table[table.paradigm == name].iloc[0]
  return paradigms.Paradigm(
    name, row.loss_kind, row.tokenizer_id, row.eval_set, bool(row.lossless)
  )


def _exponents(table: pd.DataFrame) -> list[str]:
  lines = [
    '| order | quantity | against | exponent | 95 % interval | rms of ln |',
    '|---|---|---|---|---|---|',
  ]
  for name, part in table.groupby('paradigm', sort=False):
    for quantity in ('code_nats', 'bits_per_dim'):
      for against in ('params_body', 'flops_train_total'):
        found = paradigms.fit_exponent(part[against], part[quantity])
        lines.append(
          f'| {name} | {quantity} | {against} | {found.exponent:.4f} | '
          f'{found.lo:.4f} to {found.hi:.4f} | {found.residual:.4f} |'
        )
  return lines


def _verdicts(table: pd.DataFrame) -> list[str]:
  """Pairs at the largest size, by each quantity, or why not."""
  every = {name: _paradigm(table, name) for name in table.paradigm.unique()}
  largest = table[table.params_body == table.params_body.max()]
  largest = largest.set_index('paradigm')
  lines = [
    '| pair (largest size) | by nats of codes | by bits/dim |',
    '|---|---|---|',
  ]
  for row in paradigms.comparisons(every, 'code_nats'):
    cells = []
    for quantity in ('code_nats', 'bits_per_dim'):
      one, other = every[row['one']], every[row['other']]
      refused = paradigms.refusal(one, other, quantity)
      if refused and 'bound' not in refused:
        cells.append(f'refused: {refused}')
        continue
      a, b = largest.loc[one.name], largest.loc[other.name]
      margin = 2 * math.hypot(a[f'{quantity}_sem'], b[f'{quantity}_sem'])
      verdict = paradigms.better(
        (a[quantity], paradigms.kind_of(one, quantity)),
        (b[quantity], paradigms.kind_of(other, quantity)),
        margin,
      )
      cells.append(f'{one.name} {verdict}')
    lines.append(f'| {row["one"]} – {row["other"]} | {" | ".join(cells)} |')
  return lines


def _draw(table: pd.DataFrame, path: pathlib.Path) -> None:
  import matplotlib as mpl

  mpl.use('Agg')
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(1, 3, figsize=(12, 3.8))
  panels = (
    ('code_nats', 'nats of the codes of an image'),
    ('bits_per_dim', 'bits per dimension, tokenizer included'),
  )
  for axis, (quantity, label) in zip(axes, panels, strict=False):
    for name, part in table.groupby('paradigm', sort=False):
      paradigm = _paradigm(table, name)
      kind = paradigms.kind_of(paradigm, quantity)
      found = paradigms.fit_exponent(part.flops_train_total, part[quantity])
      axis.errorbar(
        part.flops_train_total, part[quantity], 2 * part[f'{quantity}_sem'],
        fmt='o' if kind == 'exact' else 'v', color=_COLOURS.get(name),
        label=f'{name} ({kind})', markersize=4,
      )  # fmt: skip
      x = np.geomspace(
        part.flops_train_total.min(), part.flops_train_total.max(), 20
      )
      axis.plot(x, found.scale * x**-found.exponent, color=_COLOURS.get(name))
    axis.set(xscale='log', yscale='log', xlabel='training FLOPs', ylabel=label)
    axis.legend(fontsize=7)
  for name, part in table.groupby('paradigm', sort=False):
    axes[2].plot(
      part.flops_sample, part.bits_per_dim, 'o-', color=_COLOURS.get(name),
      label=f'{name}, {part.sequential_steps.iloc[0]} steps',
    )  # fmt: skip
  axes[2].set(
    xscale='log', yscale='log', xlabel='FLOPs to sample an image',
    ylabel='bits per dimension, tokenizer included',
  )  # fmt: skip
  axes[2].legend(fontsize=7)
  figure.tight_layout()
  figure.savefig(path, dpi=110)


if __name__ == '__main__':
  main()

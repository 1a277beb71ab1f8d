"""Draws quality against sequential steps for a sweep of set sizes.

  python benchmarks/parallelism.py runs/paradigms/parallelism \
    --plot docs/images/parallelism.png

Reads the runs of sweeps/parallelism.py, times their sampling, and prints one
JSON line per run: steps, nats of the codes of an image, images/s.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import jax
import numpy as np

from varjax import compilation, errors, records
from varjax.pipeline import VarPipeline

_BATCH = 32


def main() -> None:
  """Prints the runs and draws them."""
  args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  args.add_argument('sweep', type=pathlib.Path)
  args.add_argument('--plot', type=pathlib.Path, required=True)
  given = args.parse_args()
  compilation.enable_cache()
  rows = []
  for file in sorted(given.sweep.glob('trials/*/records.jsonl')):
    for record in records.latest(records.read(file)):
      if record.status == 'complete':
        rows.append(_measure(file.parent, record))
        print(json.dumps(rows[-1]), flush=True)
  if not rows:
    raise errors.DataError(f'{given.sweep}: no complete run')
  _draw(sorted(rows, key=lambda row: row['steps']), given.plot)


def _measure(path: pathlib.Path, record: records.RunRecord) -> dict:
  pipe = VarPipeline.from_workdir(path)
  labels = np.arange(_BATCH) % pipe.num_classes
  pipe.sample(labels, jax.random.key(0), cfg=0.0)  # compiles
  start = time.perf_counter()
  jax.block_until_ready(pipe.sample(labels, jax.random.key(1), cfg=0.0))
  return {
    'run_id': record.run_id,
    'steps': pipe.order.turns,
    'code_nats': record.val_loss_nats_per_token * record.positions_per_image,
    'code_nats_sem': record.val_loss_sem * record.positions_per_image,
    'flops_train_total': record.flops_train_total,
    'images_per_s': _BATCH / (time.perf_counter() - start),
  }


def _draw(rows: list[dict], path: pathlib.Path) -> None:
  import matplotlib as mpl

  mpl.use('Agg')
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
  steps = [row['steps'] for row in rows]
  axes[0].errorbar(
    steps, [row['code_nats'] for row in rows],
    [2 * row['code_nats_sem'] for row in rows], fmt='o-',
  )  # fmt: skip
  axes[0].set(ylabel='nats of the codes of an image (exact)')
  axes[1].plot(steps, [row['images_per_s'] for row in rows], 'o-')
  axes[1].set(ylabel=f'images/s, batch of {_BATCH}', yscale='log')
  for axis in axes:
    axis.set(xscale='log', xlabel='sequential steps')
  figure.tight_layout()
  figure.savefig(path, dpi=110)


if __name__ == '__main__':
  main()

"""What reading ahead costs and saves a small run: time, processor, stall.

  python benchmarks/prefetch.py
  python benchmarks/prefetch.py --quick

Trains a trial of the emoji ladder on random codes from a tokenizer of random
weights, with `data_prefetch` 0 and 2 in turns, in one process. A JSON line
for each: medians over the rounds without the first, which compiles. `cpu_s`
is processor time over all threads, of the whole run as `wall_s` is; on a
machine with other work it, the best round and `loop_ratio`, the median over
rounds of the time in updates over that of the first depth, say more than the
medians of times. `--late_s` slows the source down by that much for each batch.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time

from flax.core import meta
import jax
import numpy as np
import stopwatch

from varjax import compilation, config, runs, tokenizers, train
from varjax import spec as specs
from varjax.artifacts import FINISH
from varjax.data import encode, pipeline, sources
from varjax.tokenizers import artifact
from varjax.workdir import Workdir

_EXPERIMENT = 'experiments/emoji_var.py'


def main(argv: list[str] | None = None) -> None:
  """Trains, and prints a line for each depth."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', default='d3', help='of experiments/emoji_var')
  parser.add_argument('--updates', type=int, default=200)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--depths', default='0,2', help='data_prefetch')
  parser.add_argument('--late_s', type=float, default=0.0)
  parser.add_argument('--quick', action='store_true')
  given = parser.parse_args(argv)
  if given.quick:
    given.size, given.updates, given.rounds = 'd1', 5, 1
  compilation.enable_cache()
  _slow_down(given.late_s)
  depths = [int(depth) for depth in given.depths.split(',')]
  with tempfile.TemporaryDirectory() as folder:
    with contextlib.redirect_stdout(sys.stderr):  # of preparing the images
      run = _world(pathlib.Path(folder), given)
    found = {depth: [] for depth in depths}
    for number in range(1 + given.rounds):
      # Each is as often the second of a round as the first.
      for depth in depths[:: -1 if number % 2 else 1]:
        path = pathlib.Path(folder, f'{number}-{depth}')
        record = _train(dataclasses.replace(run, data_prefetch=depth), path)
        if number:
          found[depth].append(record)
  for depth, rounds in found.items():
    stopwatch.line(
      'prefetch',
      f'{given.size} depth {depth}',
      **{
        key: round(statistics.median(each[key] for each in rounds), 4)
        for key in rounds[0]
      },
      images_per_s=round(statistics.median(map(_speed, rounds)), 1),
      loop_ratio=round(_ratio(rounds, found[depths[0]]), 4),
      images_per_s_best=round(max(map(_speed, rounds)), 1),
      updates=given.updates,
      rounds=given.rounds,
      late_s=given.late_s,
    )


def _world(root: pathlib.Path, given: argparse.Namespace) -> specs.RunSpec:
  """A tokenizer, codes drawn from a hat, and the run that reads them."""
  loaded = config.override(
    config.load(f'{_EXPERIMENT}:size={given.size}'),
    {
      'total.steps': given.updates,
      'tokenizer_dir': str(root / 'tok'),
      'codes_dir': str(root / 'codes'),
    },
  )
  run = config.to_spec(loaded, _EXPERIMENT)
  tokenizer = tokenizers.make_tokenizer(run.tokenizer, run.data.resolution)
  draw = np.random.default_rng(0)
  shapes = jax.eval_shape(
    lambda key: tokenizer.init(key, run.data.resolution), jax.random.key(0)
  )
  weights = jax.tree.map(
    lambda x: draw.normal(size=x.shape).astype(np.float32), meta.unbox(shapes)
  )
  identifier = artifact.save(root / 'tok', run.tokenizer, run.data, weights)
  positions = tokenizer.code_spec.positions
  for split in ('train', 'validation'):
    encode.encode_split(
      lambda images: draw.integers(
        0, run.tokenizer.vocab, (len(images), positions, 1)
      ),
      sources.open_source(run.data, split),
      root / 'codes',
      tokenizer_id=identifier,
      code_spec=tokenizer.code_spec,
      data_spec=run.data,
      split=split,
    )
  return run


def _train(run: specs.RunSpec, path: pathlib.Path) -> dict[str, float]:
  """Trains to the end; where the time of the updates went."""
  path.mkdir()
  workdir, resolved = Workdir(path), runs.resolve(run)
  workdir.claim(run, resolved.run_id)
  start, cpu = time.perf_counter(), time.process_time()
  record = train.train(run, workdir, resolved, FINISH[run.task], quiet=True)
  wall, cpu = time.perf_counter() - start, time.process_time() - cpu
  return {
    'wall_s': wall,
    'cpu_s': cpu,
    **{
      key: getattr(record, key)
      for key in (
        'images_seen',
        'step_s',
        'data_s',
        'data_stall',
        'eval_data_stall',
      )
    },
  }


def _speed(found: dict[str, float]) -> float:
  """Images a second in the loop, as a record counts its time."""
  return found['images_seen'] / (found['step_s'] + found['data_s'])


def _ratio(
  rounds: list[dict[str, float]], others: list[dict[str, float]]
) -> float:
  """Time in the loop over that of another depth in the same round."""
  return statistics.median(
    _speed(theirs) / _speed(mine)
    for mine, theirs in zip(rounds, others, strict=True)
  )


def _slow_down(seconds: float) -> None:
  read = pipeline.TrainBatches.__next__

  def late(self):
    time.sleep(seconds)
    return read(self)

  if seconds:
    pipeline.TrainBatches.__next__ = late


if __name__ == '__main__':
  main()

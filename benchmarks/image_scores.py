"""What the scores of image sets do: with damage, and with few images.

  python benchmarks/image_scores.py [--images N] [--plot FIGURE.png]

One JSON line per case, on the built-in images at 32 pixels through
EfficientNet-Lite0. The images are dealt at random into a reference and a
pool; the pool is damaged, or only a part of it is taken. What was computed is
kept (VARJAX_CACHE), so the same command goes on after an interruption. By
default there are too few images for a Frechet distance that compares with
anything: here it is compared with itself, at equal numbers.
"""

from __future__ import annotations

import argparse
import json

import jax
import numpy as np

from varjax import compilation, features
from varjax.evals import frechet, kid, manifold
from varjax.evals.corruptions import corrupt
from varjax.evals.moments import Moments
from varjax.scoring import images, statistics
from varjax.spec import DataSpec

LEVELS = {'blur': (0.5, 1, 2), 'noise': (8, 16, 32), 'swap': (1, 2, 4)}
COUNTS = (50, 75, 100, 125, 150, 175, 200, 400, 600, 800)


def main() -> None:
  """Prints one line per case."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--images', type=int, default=120, help='in a damaged set'
  )
  parser.add_argument(
    '--half', type=int, default=800, help='images in reference and in pool'
  )
  parser.add_argument('--plot', help='figure to write')
  args = parser.parse_args()
  compilation.enable_cache()
  extract = statistics.Extractor(features.load('efflite0'), 64)
  everything = np.random.default_rng(0).permutation(_images())
  half = min(args.half, len(everything) // 2)
  pool, reference = everything[:half], everything[half : 2 * half]
  seen = statistics.keep(extract, images.of_array(reference, 'reference'))
  clean = statistics.keep(extract, images.of_array(pool, 'pool'))
  device = jax.devices()[0].device_kind
  # Moments alone are known of references in files only.
  assert seen.features is not None
  assert clean.features is not None
  theirs, ours = seen.features, clean.features

  def measure(given: np.ndarray) -> dict[str, float]:
    part = Moments.of(given)
    distance = frechet.distance(
      part.mean, part.covariance(), seen.pooled.mean, seen.pooled.covariance
    )
    kernel = kid.estimate(given, theirs, block=200)
    shares = manifold.precision_recall(theirs, given)
    return {
      'fd_efflite0': distance,
      'kd_efflite0': kernel.value,
      'kd_efflite0_error': kernel.error,
      'precision': shares.precision,
      'recall': shares.recall,
    }

  damaged, counted = [], []
  base = ours[: args.images]
  damaged.append(_line('damage', 'none', 0, len(base), measure(base), device))
  for kind, levels in LEVELS.items():
    for level in levels:
      given = corrupt(pool[: args.images], kind, level)
      given = images.of_array(given, f'{kind} {level}')
      found = statistics.keep(extract, given).features
      damaged.append(
        _line('damage', kind, level, len(found), measure(found), device)
      )
  for count in COUNTS:
    if count <= half:
      values = measure(ours[:count])
      counted.append(_line('count', 'none', 0, count, values, device))

  def estimate(index: np.ndarray) -> float:
    part = Moments.of(ours[index])
    return frechet.distance(
      part.mean, part.covariance(), seen.pooled.mean, seen.pooled.covariance
    )

  limit = frechet.limit(estimate, half, smallest=half // 2, points=6)
  print(json.dumps({'case': 'limit', 'images': half, 'value': limit.value,
                    'error': limit.error, 'counts': limit.counts,
                    'distances': limit.distances}))  # fmt: skip
  if args.plot:
    _plot(damaged, counted, limit, args.plot)


def _images() -> np.ndarray:
  """Both splits of the built-in images, uint8 [n, 32, 32, 3]."""
  spec = DataSpec(name='emoji', resolution=32, resize_ratio=1.0)
  splits = [images.open_dataset(spec, s) for s in ('train', 'validation')]
  return np.concatenate(
    [batch for split in splits for batch in split.batches(256, 0, 1)]
  )


def _line(case, kind, level, count, values, device) -> dict:
  line = {'case': case, 'kind': kind, 'level': level, 'images': count,
          'device': device, **values}  # fmt: skip
  print(json.dumps(line), flush=True)
  return line


def _plot(damaged, counted, limit, path: str) -> None:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(8.4, 3.4), layout='constrained')
  left, right = figure.subplots(1, 2)
  base = damaged[0]['fd_efflite0']
  for kind in LEVELS:
    rows = [row for row in damaged if row['kind'] == kind]
    heights = [base, *(row['fd_efflite0'] for row in rows)]
    label = f'{kind} {", ".join(str(row["level"]) for row in rows)}'
    left.plot(range(4), heights, 'o-', label=label)
  left.set_xticks(range(4), ['none', 'weak', 'medium', 'strong'])
  left.set_ylabel('fd_efflite0')
  left.set_title('damage raises the distance', fontsize=9)
  left.legend(frameon=False, fontsize=8)
  counts = [row['images'] for row in counted]
  heights = [row['fd_efflite0'] for row in counted]
  right.plot(counts, heights, 'o-', label='fd_efflite0')
  label = 'limit of infinitely many'
  right.axhline(limit.value, linestyle='--', color='0.4', label=label)
  right.set_xlabel('images of the undamaged set')
  right.set_title('so does taking fewer images', fontsize=9)
  right.legend(frameon=False, fontsize=8)
  for axis in (left, right):
    axis.set_ylim(0)
    axis.grid(alpha=0.3)
  figure.savefig(path, dpi=110)


if __name__ == '__main__':
  main()

"""Images per second that the input pipeline gives, from a cache of codes.

  python benchmarks/feed.py --images 100000 --batch 768
  python benchmarks/feed.py --quick             small, in seconds

Writes a cache of random codes of the official shape (L = 680, uint16) with
the code that `varjax encode` uses, then reads it as a run would: shuffled
by epoch, checked, on this machine's cores. One JSON line per batch size;
`cpu_us_per_image` is processor time over all threads.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
import time

import networks
import numpy as np
import stopwatch

from varjax.data import codes, encode, pipeline
from varjax.spec import DataSpec
from varjax.types import CodeSpec


class Blank:
  """A source of images that cost nothing; see `data.sources.Source`."""

  num_classes = networks.CLASSES
  class_names = tuple(map(str, range(networks.CLASSES)))
  fingerprint = 'blank'

  def __init__(self, length: int):
    self._length = length

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> dict:
    image = np.zeros((16, 16, 3), np.uint8)
    return {'image': image, 'label': index % 1000, 'id': str(index)}


def main(argv: list[str] | None = None) -> None:
  """Writes the cache and reads it at every batch size."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--images', type=int, default=50_000)
  parser.add_argument('--batch', default='768', help='images per batch')
  parser.add_argument('--batches', type=int, default=100, help='to time')
  parser.add_argument('--quick', action='store_true', help='a small cache')
  given = parser.parse_args(argv)
  if given.quick:
    given.images, given.batch, given.batches = 2000, '64', 20
  spec = networks.OFFICIAL
  code_spec = CodeSpec(spec.grids, spec.vocab, spec.code_dim)
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as folder:
    encode.encode_split(
      lambda images: rng.integers(
        0, spec.vocab, (len(images), code_spec.positions, 1), np.int32
      ),
      Blank(given.images),
      folder,
      tokenizer_id='random',
      code_spec=code_spec,
      data_spec=DataSpec(resolution=14),
      split='train',
      batch_size=1000,
      shard_images=10_000,
    )
    source = codes.open_codes(folder, 'train')
    size = sum(f.stat().st_size for f in pathlib.Path(folder).rglob('*'))
    for batch in map(int, given.batch.split(',')):
      _time(source, batch, given, size)


def _time(source, batch: int, given, size: int) -> None:
  stream = pipeline.train_batches(
    source, batch_size=batch, seed=0, process_index=0, process_count=1
  )
  for _ in range(3):
    next(stream)
  start, cpu = time.perf_counter(), time.process_time()
  for _ in range(given.batches):
    next(stream)
  wall, cpu = time.perf_counter() - start, time.process_time() - cpu
  stream.close()
  images = batch * given.batches
  stopwatch.line(
    'feed',
    f'b{batch}',
    images_per_s=round(images / wall, 1),
    cpu_us_per_image=round(1e6 * cpu / images, 2),
    cache_bytes=size,
    images=given.images,
    cores=os.cpu_count(),
  )


if __name__ == '__main__':
  main()

"""Images per second that the input pipeline gives, from a cache of codes.

  python benchmarks/feed.py --images 300000 --batch 768
  python benchmarks/feed.py --cold              with nothing in the page cache
  python benchmarks/feed.py --cold --random     and without reading ahead
  python benchmarks/feed.py --quick             small, in seconds

Writes a cache of random codes of the official shape (L = 680, uint16) with
the code that `varjax encode` uses, the same codes once more in the format of
older caches, and reads both as a run would: shuffled by epoch, checked, on
two cores of this machine. Formats take turns; each JSON line is the median
of the rounds of one format and batch size. `cpu_us_per_image` is processor
time over all threads, `major_faults` counts the waits for a page of a map.
"""

from __future__ import annotations

import argparse
import mmap
import os
import pathlib
import resource
import statistics
import tempfile
import time

import networks
import numpy as np
import stopwatch

from varjax.data import codes, encode, mapped, pipeline, shards
from varjax.data import manifest as manifests
from varjax.spec import DataSpec
from varjax.types import CodeSpec

_SHARD_IMAGES = 8192  # the default of `varjax encode`


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
  """Writes the caches and reads them at every batch size."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--images', type=int, default=50_000)
  parser.add_argument('--batch', default='768', help='images per batch')
  parser.add_argument('--batches', type=int, default=100, help='of a round')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument(
    '--cold',
    action='store_true',
    help='drop the files from the page cache before each round (Linux)',
  )
  parser.add_argument(
    '--random',
    action='store_true',
    help='tell the kernel that maps are read at random (MADV_RANDOM), so that '
    'it reads no further than the page of a fault',
  )
  parser.add_argument('--quick', action='store_true', help='a small cache')
  given = parser.parse_args(argv)
  if given.quick:
    given.images, given.batch, given.batches = 2000, '64', 20
  if given.random:
    _advise(mmap.MADV_RANDOM)
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
  with tempfile.TemporaryDirectory() as folder:
    caches = {suffix: pathlib.Path(folder, suffix) for suffix in shards.FORMATS}
    _write(caches[shards.SUFFIX], given.images)
    for suffix, cache in caches.items():
      if suffix != shards.SUFFIX:
        _copy(caches[shards.SUFFIX], cache, suffix)
    for batch in map(int, given.batch.split(',')):
      _compare(caches, batch, given)


def _write(cache: pathlib.Path, images: int) -> None:
  """A cache of random codes, as `varjax encode` writes it."""
  spec = networks.OFFICIAL
  code_spec = CodeSpec(spec.grids, spec.vocab, spec.code_dim)
  rng = np.random.default_rng(0)
  encode.encode_split(
    lambda images: rng.integers(
      0, spec.vocab, (len(images), code_spec.positions, 1), np.int32
    ),
    Blank(images),
    cache,
    tokenizer_id='random',
    code_spec=code_spec,
    data_spec=DataSpec(resolution=14),
    split='train',
    batch_size=1024,
    shard_images=_SHARD_IMAGES,
  )


def _copy(cache: pathlib.Path, target: pathlib.Path, suffix: str) -> None:
  """The same codes in another format."""
  source = codes.open_codes(cache, 'train')
  folder = target / 'train'
  folder.mkdir(parents=True)
  written = []
  for shard in source.manifest.shards:
    rows = [
      (example['codes'], example['label'], example['id'])
      for example in map(
        source.__getitem__, range(shard.first, shard.first + shard.examples)
      )
    ]
    written.append(
      shards.write(folder, source.manifest, 0, shard.first, rows, suffix)
    )
  manifests.save(source.manifest.with_shards(tuple(written)), folder)


def _compare(
  caches: dict[str, pathlib.Path], batch: int, given: argparse.Namespace
) -> None:
  """Reads the caches in turns, and prints a line for each."""
  found: dict[str, list[tuple[float, float, int]]] = {s: [] for s in caches}
  for _ in range(given.rounds):
    for suffix, cache in caches.items():
      found[suffix].append(_time(cache, batch, given))
  images = batch * given.batches
  for suffix, rounds in found.items():
    walls, cpus, faults = zip(*rounds, strict=True)
    case = [f'b{batch}', *([] if suffix == shards.SUFFIX else [suffix[1:]])]
    case += [name for name in ('cold', 'random') if getattr(given, name)]
    stopwatch.line(
      'feed',
      ' '.join(case),
      images_per_s=round(images / statistics.median(walls), 1),
      images_per_s_worst=round(images / max(walls), 1),
      cpu_us_per_image=round(1e6 * statistics.median(cpus) / images, 2),
      major_faults=round(statistics.median(faults)),
      rounds=given.rounds,
      cache_bytes=sum(f.stat().st_size for f in _files(caches[suffix])),
      images=given.images,
      cores=len(os.sched_getaffinity(0)),
    )


def _time(
  cache: pathlib.Path, batch: int, given: argparse.Namespace
) -> tuple[float, float, int]:
  """Seconds, of processors too, and major faults of a round."""
  source = codes.open_codes(cache, 'train')
  if given.cold:
    _forget(cache)
  stream = pipeline.train_batches(
    source, batch_size=batch, seed=0, process_index=0, process_count=1
  )
  if not given.cold:
    for _ in range(3):
      next(stream)
  faults = _major_faults()
  start, cpu = time.perf_counter(), time.process_time()
  for _ in range(given.batches):
    next(stream)
  wall, cpu = time.perf_counter() - start, time.process_time() - cpu
  stream.close()
  return wall, cpu, _major_faults() - faults


def _major_faults() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _advise(advice: int) -> None:
  """Gives the kernel advice about every map of a shard from now on."""
  map_file = mapped._map

  def map_and_advise(path: pathlib.Path) -> np.ndarray:
    records = map_file(path)
    records._mmap.madvise(advice)
    return records

  mapped._map = map_and_advise


def _forget(cache: pathlib.Path) -> None:
  """Drops what the page cache holds of a folder."""
  for file in _files(cache):
    descriptor = os.open(file, os.O_RDONLY)
    try:
      os.fsync(descriptor)  # Only clean pages are dropped.
      os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
      os.close(descriptor)


def _files(cache: pathlib.Path) -> list[pathlib.Path]:
  return [path for path in cache.rglob('*') if path.is_file()]


if __name__ == '__main__':
  main()

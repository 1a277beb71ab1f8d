"""Many images into one `.npz`, resumably (VAR section 4.1: 50,000 of them).

Written as the evaluator of guided-diffusion reads it: uint8 `arr_0`
[n, H, W, 3]. Images are made in shards of fixed ranges; a shard file
appears whole or not at all, and a manifest says what it was made with, so
that a second call makes only what is missing. Processes take turns: process
i of n makes shards i, i + n, i + 2 n, ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import json
import os
import pathlib
import shutil
from typing import Any, BinaryIO
import zipfile

import jax
import numpy as np

from varjax import errors

SHARD_IMAGES = 512
_FORMAT = 1
# Zip stores local time; a fixed one makes equal images equal files.
_EPOCH = (1980, 1, 1, 0, 0, 0)

# index [n] -> images uint8 [n, H, W, 3]
Make = Callable[[np.ndarray], np.ndarray]


def write(
  out: pathlib.Path,
  make: Make,
  count: int,
  settings: Mapping[str, Any],
  *,
  shard_images: int = SHARD_IMAGES,
  report: Callable[[int, int], None] = lambda *_: None,
) -> bool:
  """Makes images 0 to count - 1 and writes them as `arr_0` of `out`.

  Beside `out` are `OUT.json`, the manifest, and `OUT.shards/` until all is
  done. Every process of a run calls this, with `out` on a shared disk.

  Args:
    out: file to write, ending in .npz.
    make: images by index; called with ranges of at most `shard_images`.
    count: images in total.
    settings: everything else that the images depend on, as JSON.
    shard_images: images in a shard, the unit that a kill can lose.
    report: told (images done, count) by each process about its share.

  Returns:
    False if `out` was complete already.

  Raises:
    ConfigError: `out` was begun with other settings, or is not ours.
    DataError: a shard is damaged.
  """
  content = json.loads(
    json.dumps(
      {
        'format': _FORMAT,
        'images': count,
        'shard_images': shard_images,
        **settings,
      }
    )
  )
  manifest = out.with_name(out.name + '.json')
  folder = out.with_name(out.name + '.shards')
  first = jax.process_index() == 0
  if first:
    _claim(out, manifest, content)
  _barrier('claimed')
  _check(manifest, content)
  if out.exists():
    _barrier('found')
    if first:
      shutil.rmtree(folder, ignore_errors=True)
    return False
  folder.mkdir(exist_ok=True)
  starts = range(0, count, shard_images)
  shards = [folder / f'{start:08d}.npy' for start in starts]
  mine = slice(jax.process_index(), None, jax.process_count())
  done, total = 0, sum(_size(s, count, shard_images) for s in starts[mine])
  for start, shard in zip(starts[mine], shards[mine], strict=True):
    index = np.arange(start, min(start + shard_images, count))
    if not shard.exists():
      _save(shard, make(index))
    done += len(index)
    report(done, total)
  _barrier('made')
  if first:
    _assemble(out, shards, [_size(s, count, shard_images) for s in starts])
    shutil.rmtree(folder)
  _barrier('assembled')
  return True


def _size(start: int, count: int, shard_images: int) -> int:
  return min(shard_images, count - start)


def _claim(
  out: pathlib.Path, manifest: pathlib.Path, content: dict[str, Any]
) -> None:
  out.parent.mkdir(parents=True, exist_ok=True)
  if manifest.exists():
    return
  if out.exists():
    raise errors.ConfigError(
      f'{out}: exists, without the {manifest.name} that says how it was made; '
      'choose another file'
    )
  text = json.dumps(content, indent=1, allow_nan=False)
  _replace(manifest, lambda file: file.write(text.encode()))


def _check(manifest: pathlib.Path, content: dict[str, Any]) -> None:
  try:
    before = json.loads(manifest.read_text())
  except json.JSONDecodeError as error:
    raise errors.DataError(
      f'{manifest}: not JSON ({error}); remove it, the .shards folder and the '
      'file itself'
    ) from error
  changed = [
    f'{key}={before.get(key)!r} there, {content.get(key)!r} here'
    for key in sorted(before.keys() | content.keys())
    if before.get(key) != content.get(key)
  ]
  if changed:
    raise errors.ConfigError(
      f'{manifest}: these images were begun with other settings '
      f'({"; ".join(changed)}); choose another file'
    )


def _save(path: pathlib.Path, images: np.ndarray) -> None:
  _replace(path, lambda file: np.save(file, images))


def _replace(
  path: pathlib.Path, write_to: Callable[[BinaryIO], object]
) -> None:
  """Writes a file that is whole or absent, whatever else writes it."""
  partial = path.with_name(f'{path.name}.partial-{os.getpid()}')
  with open(partial, 'wb') as file:
    write_to(file)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def _assemble(
  out: pathlib.Path, shards: list[pathlib.Path], sizes: list[int]
) -> None:
  """Streams the shards into one archive, one shard in memory at a time."""
  shape = _load(shards[0], sizes[0]).shape[1:]
  member = zipfile.ZipInfo('arr_0.npy', _EPOCH)
  header = {
    'descr': '|u1',
    'fortran_order': False,
    'shape': (sum(sizes), *shape),
  }

  def stream_into(file: BinaryIO) -> None:
    with (
      zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive,
      archive.open(member, 'w', force_zip64=True) as stream,
    ):
      np.lib.format.write_array_header_1_0(stream, header)
      for shard, size in zip(shards, sizes, strict=True):
        images = _load(shard, size)
        if images.shape[1:] != shape:
          raise _damaged(shard)
        stream.write(np.ascontiguousarray(images).data)

  _replace(out, stream_into)


def _load(shard: pathlib.Path, size: int) -> np.ndarray:
  try:
    images = np.load(shard, mmap_mode='r', allow_pickle=False)
  except (OSError, ValueError) as error:
    raise _damaged(shard) from error
  if images.dtype != np.uint8 or images.ndim != 4 or len(images) != size:
    raise _damaged(shard)
  return images


def _damaged(shard: pathlib.Path) -> errors.DataError:
  return errors.DataError(
    f'{shard}: is damaged; remove it and run the same command again'
  )


def _barrier(name: str) -> None:
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(f'varjax.sampling.bulk.{name}')

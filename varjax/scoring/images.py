"""Sets of images to score: a folder, a sample .npz, or a split of a dataset.

Images stream in a fixed order and are never all in memory: 50,000 images of
256 pixels are 9.8 GB. A set knows the hash of its content, so that what was
computed from it can be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import hashlib
import os
import pathlib

import numpy as np

from varjax import errors
from varjax.data import folders, preprocess, sources
from varjax.data import images as image_files
from varjax.scoring import archive
from varjax.spec import DataSpec

_HASH_CHUNK = 2**22


@dataclasses.dataclass(frozen=True)
class ImageSet:
  """Images of one size, in a fixed order.

  Attributes:
    label: what it is, for people.
    fingerprint: hash of the content and of everything done to it.
    count: how many.
    height, width: in pixels.
    batches: from (batch size, first, step) to uint8 [n, H, W, 3] of batch
      `first`, `first + step`, ...; the last of the set may be smaller.
  """

  label: str
  fingerprint: str
  count: int
  height: int
  width: int
  batches: Callable[[int, int, int], Iterator[np.ndarray]]

  @property
  def size(self) -> tuple[int, int]:
    """(height, width)."""
    return self.height, self.width


def open_folder(path: str | os.PathLike[str]) -> ImageSet:
  """The image files below a folder, at any depth, sorted by path.

  Raises:
    DataError: no images, a damaged one, or one of another size.
  """
  root = pathlib.Path(path)
  files = sorted(
    file
    for file in root.rglob('*')
    if file.suffix.lower() in folders.SUFFIXES
    and not any(part.startswith('.') for part in file.relative_to(root).parts)
    and file.is_file()
  )
  if not files:
    raise errors.DataError(
      f'{root}: holds no image file; one of '
      f'{", ".join(sorted(folders.SUFFIXES))} was expected'
    )
  first = _decode(files[0])
  digest = hashlib.sha256(b'folder')
  for file in files:
    digest.update(_file_digest(file))

  def read(index: int) -> np.ndarray:
    image = _decode(files[index])
    if image.shape != first.shape:
      raise errors.DataError(
        f'{files[index]}: is {image.shape[1]}x{image.shape[0]} pixels, '
        f'{files[0].name} is {first.shape[1]}x{first.shape[0]}; a set that '
        'is scored has images of one size'
      )
    return image

  return ImageSet(
    label=f'{root} ({len(files)} files)',
    fingerprint=digest.hexdigest()[:16],
    count=len(files),
    height=first.shape[0],
    width=first.shape[1],
    batches=_reader(read, len(files)),
  )


def open_npz(path: str | os.PathLike[str]) -> ImageSet:
  """The uint8 array `arr_0` [n, H, W, 3] of an .npz, streamed.

  Raises:
    DataError: no such file or array, of another type, or shorter than it
      declares.
  """
  path = pathlib.Path(path)
  with archive.open_array(path, 'arr_0') as opened:
    shape = opened.shape
    if (
      opened.dtype != np.uint8
      or len(shape) != 4
      or shape[-1] != 3
      or opened.fortran
    ):
      raise errors.DataError(
        f'{path}: arr_0 is {opened.dtype} {list(shape)}; images must be uint8 '
        '[n, H, W, 3]'
      )
  count, height, width, _ = shape
  if 0 in shape:
    raise errors.DataError(f'{path}: arr_0 holds no images')

  def batches(size: int, first: int, step: int) -> Iterator[np.ndarray]:
    row = height * width * 3
    with archive.open_array(path, 'arr_0') as opened:
      stream = opened.stream
      header = stream.tell()
      for start in range(first * size, count, step * size):
        wanted = min(size, count - start) * row
        try:
          stream.seek(header + start * row)
          data = stream.read(wanted)
        except archive.DAMAGE as error:
          raise errors.DataError(f'{path}: is damaged ({error})') from error
        if len(data) != wanted:
          raise errors.DataError(
            f'{path}: arr_0 ends after {start + len(data) // row} of its '
            f'{count} images'
          )
        yield np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)

  return ImageSet(
    label=str(path),
    fingerprint=_file_digest(path).hex()[:16],
    count=count,
    height=height,
    width=width,
    batches=batches,
  )


def open_dataset(spec: DataSpec, split: str) -> ImageSet:
  """A split of a dataset, resized and centre-cropped as in validation.

  Raises:
    DataError: the data is missing or not what `spec` says.
  """
  source = sources.open_source(spec, split)
  treatment = f'{source.fingerprint} {spec.resolution} {spec.resize_ratio}'
  side = spec.resolution

  def read(index: int) -> np.ndarray:
    return preprocess.center_crop(source[index]['image'], spec)

  return ImageSet(
    label=f'{spec.name} {split} at {side} pixels',
    fingerprint=hashlib.sha256(treatment.encode()).hexdigest()[:16],
    count=len(source),
    height=side,
    width=side,
    batches=_reader(read, len(source)),
  )


def of_array(images: np.ndarray, label: str) -> ImageSet:
  """Images in memory, uint8 [n, H, W, 3].

  Raises:
    DataError: another type or shape, or no images.
  """
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
    raise errors.DataError(
      f'{label}: images must be uint8 [n, H, W, 3], not {images.dtype} '
      f'{list(images.shape)}'
    )
  if not len(images):
    raise errors.DataError(f'{label}: holds no images')

  def batches(size: int, first: int, step: int) -> Iterator[np.ndarray]:
    for start in range(first * size, len(images), step * size):
      yield images[start : start + size]

  digest = hashlib.sha256(str(images.shape).encode())
  digest.update(np.ascontiguousarray(images).tobytes())
  return ImageSet(
    label, digest.hexdigest()[:16], *images.shape[:3], batches=batches
  )


def _reader(
  read: Callable[[int], np.ndarray], count: int
) -> Callable[[int, int, int], Iterator[np.ndarray]]:
  """Batches of images that are read one by one."""

  def batches(size: int, first: int, step: int) -> Iterator[np.ndarray]:
    for start in range(first * size, count, step * size):
      stop = min(start + size, count)
      yield np.stack([read(index) for index in range(start, stop)])

  return batches


def _decode(file: pathlib.Path) -> np.ndarray:
  try:
    encoded = file.read_bytes()
  except OSError as error:
    raise errors.DataError(
      f'{file}: cannot be read ({error.strerror})'
    ) from error
  return image_files.decode(encoded, str(file))


def _file_digest(path: pathlib.Path) -> bytes:
  digest = hashlib.sha256()
  with open(path, 'rb') as file:
    while chunk := file.read(_HASH_CHUNK):
      digest.update(chunk)
  return digest.digest()

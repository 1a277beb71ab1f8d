"""References: what samples are compared with, from any of its forms.

The reference files of guided-diffusion (ADM) are read as they are: `mu`,
`sigma`, `mu_s` and `sigma_s` are moments of the TF-Inception network, and
`arr_0`, where it is there, holds images for precision and recall.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pathlib

import numpy as np

from varjax import errors
from varjax.features import Network, inception
from varjax.scoring import archive, images, scores, statistics
from varjax.scoring.statistics import Extractor, Gaussian, Report, Statistics
from varjax.spec import DataSpec

# The network of `mu` and `sigma`; other networks have other moments.
ADM_NETWORK = inception.NAME
_MOMENTS = ('mu', 'sigma', 'mu_s', 'sigma_s')
# The largest that is read: 2048 numbers squared, in float64.
_MAX_MOMENT_BYTES = 2**26


def open_reference(
  text: str,
  extract: Extractor,
  *,
  data: DataSpec | None = None,
  like: tuple[str, tuple[int, int]] | None = None,
  cache: str = '',
  report: Report = lambda *_: None,
) -> Statistics:
  """Statistics of a reference.

  Args:
    text: a folder of images, an .npz of images or of ADM moments, or
      NAME:SPLIT of a dataset, such as 'emoji:validation'.
    extract: the network.
    data: how images of a dataset are cropped; NAME replaces its name.
    like: label and (height, width) of what will be compared with it:
      another resolution is refused before anything is computed.
    cache: see `statistics.keep`.
    report: see `Extractor`.

  Raises:
    DataError: missing, damaged, of another resolution than `like`, or
      moments of another network.
  """
  path = pathlib.Path(text)
  names = set()
  if path.suffix == '.npz' and path.is_file():
    names = archive.names(path)
  moments_only = {'mu', 'sigma'} <= names and 'arr_0' not in names
  if like is not None and not moments_only:
    found = open_images(text, data=data)
    scores.check_sizes(*like, found.label, found.size)
  if {'mu', 'sigma'} <= names:
    return _open_adm(path, names, extract, cache, report)
  found = open_images(text, data=data)
  return statistics.keep(extract, found, cache, report)


def open_images(text: str, *, data: DataSpec | None = None) -> images.ImageSet:
  """The images that `text` names; see `open_reference`.

  Raises:
    DataError: missing or damaged.
  """
  path = pathlib.Path(text)
  if path.is_dir():
    return images.open_folder(path)
  if path.is_file() and path.suffix == '.npz':
    return images.open_npz(path)
  name, colon, split = text.partition(':')
  if path.exists() or not colon or '/' in name:
    what = 'is neither' if path.exists() else 'does not exist; give'
    raise errors.DataError(
      f'{text}: {what} a folder of images, an .npz, or NAME:SPLIT of a '
      'dataset, such as emoji:validation'
    )
  if data is None:
    raise errors.DataError(
      f'{text}: the images of a dataset need a size; give --resolution'
    )
  return images.open_dataset(dataclasses.replace(data, name=name), split)


def _open_adm(
  path: pathlib.Path,
  names: set[str],
  extract: Extractor,
  cache: str,
  report: Report,
) -> Statistics:
  network: Network = extract.network
  has_images = 'arr_0' in names
  if network.name != ADM_NETWORK:
    if has_images:
      # Its moments are of another network, but its images are images.
      return statistics.keep(extract, images.open_npz(path), cache, report)
    raise errors.DataError(
      f'{path}: holds moments of {ADM_NETWORK} and no images; features of '
      f'{network.name} cannot be compared with them'
    )
  arrays = {name: _moment(path, name) for name in _MOMENTS if name in names}
  spatial = None
  if {'mu_s', 'sigma_s'} <= names:
    spatial = Gaussian(arrays['mu_s'], arrays['sigma_s'])
  digest = hashlib.sha256(b'adm')
  for name in sorted(arrays):
    digest.update(arrays[name].tobytes())
  found = None
  if has_images:
    found = statistics.keep(extract, images.open_npz(path), cache, report)
  return Statistics(
    label=f'{path} (its own moments)',
    fingerprint=digest.hexdigest()[:16],
    network=network.identity,
    images=None,
    size=found.size if found else None,
    pooled=Gaussian(arrays['mu'], arrays['sigma']),
    spatial=spatial,
    features=found.features if found else None,
  )


def _moment(path: pathlib.Path, name: str) -> np.ndarray:
  """A float array of an .npz, its size checked before it is read."""
  with archive.open_array(path, name) as opened:
    nbytes = math.prod(opened.shape) * opened.dtype.itemsize
    if (
      opened.dtype.kind != 'f'
      or len(opened.shape) not in (1, 2)
      or nbytes > _MAX_MOMENT_BYTES
    ):
      raise errors.DataError(
        f'{path}: {name} is {opened.dtype} {list(opened.shape)}; moments are '
        'floats of one or two axes, of at most 64 MiB'
      )
    try:
      data = opened.stream.read(nbytes)
    except archive.DAMAGE as error:
      raise errors.DataError(f'{path}: is damaged ({error})') from error
  if len(data) != nbytes:
    raise errors.DataError(f'{path}: {name} ends before its shape does')
  order = 'F' if opened.fortran else 'C'
  values = np.frombuffer(data, opened.dtype).reshape(opened.shape, order=order)
  return np.array(values, np.float64, order='C')

"""What a feature network says of a set of images, and where it is kept.

Statistics are the only thing that scores are computed from. Those of a
reference set are kept by the hash of the images, the network, its weights
and its preprocessing: a change in any of them is another file.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import os
import pathlib

import jax
import numpy as np

from varjax import compilation, errors, sharding
from varjax import spec as specs
from varjax.evals import moments
from varjax.evals.moments import Moments
from varjax.features import Features, Network
from varjax.interop import npz
from varjax.scoring.images import ImageSet

# Descriptors counted at once: a large product is faster than many small.
_CHUNK = 1024
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """Mean [F] and covariance [F, F], float64."""

  mean: np.ndarray
  covariance: np.ndarray


@dataclasses.dataclass(frozen=True)
class Statistics:
  """A set of images as a feature network sees it.

  Attributes:
    label: what the set is, for people.
    fingerprint: of the images.
    network: `Network.identity`.
    images: how many; None where a file of moments does not say.
    size: (height, width) of the images; None where a file does not say.
    pooled: moments of the descriptors.
    spatial: moments of the spatial descriptors.
    features: descriptors float32 [n, F]; None where only moments are known.
    logits: float32 [n, J], the same.
  """

  label: str
  fingerprint: str
  network: str
  images: int | None
  size: tuple[int, int] | None
  pooled: Gaussian
  spatial: Gaussian | None
  features: np.ndarray | None = None
  logits: np.ndarray | None = None


Report = Callable[[int, int], None]


class Extractor:
  """Runs a network over sets of images, on every local device.

  Processes of a multi-host program share the batches of a set: process i
  of n computes batches i, i + n, i + 2 n, ...; all get the whole result.

  Attributes:
    network: the network.
    rows: images of one call, over the devices of this process.
  """

  def __init__(self, network: Network, batch_size: int = 64):
    """Copies the weights to the devices; compiles at the first call."""
    devices = jax.local_devices()
    mesh = sharding.make_mesh(specs.MeshSpec(data=-1), devices)
    self.network = network
    self.rows = -(-batch_size // len(devices)) * len(devices)
    self._split = sharding.batch_sharding(mesh)
    self._params = jax.device_put(network.params, sharding.replicated(mesh))

    def shown(params, images) -> Features:
      # Maps are for losses; fetching them would cost more than the network.
      return network.apply(params, images)._replace(maps=())

    self._apply = jax.jit(shown)

  def __call__(
    self, images: ImageSet, report: Report = lambda *_: None
  ) -> Statistics:
    """Statistics of a set.

    Args:
      images: the set.
      report: told (images done, images) of this process as it goes on.
    """
    first, step = jax.process_index(), jax.process_count()
    shapes = jax.eval_shape(
      self.network.apply,
      self.network.params,
      jax.ShapeDtypeStruct((1, *images.size, 3), np.uint8),
    )
    widths = [shape.shape[1] for shape in shapes[:3]]
    pooled, spatial = _Stream(widths[0]), _Stream(widths[1])
    features, logits = [], []
    for number, batch in enumerate(images.batches(self.rows, first, step)):
      found = self.features(batch)
      pooled.add(found.pooled)
      spatial.add(found.spatial)
      features.append(found.pooled)
      logits.append(found.logits)
      done = (number * step + 1) * self.rows
      report(min(done, images.count), images.count)
    slots = -(-images.count // (self.rows * step))
    return Statistics(
      label=images.label,
      fingerprint=images.fingerprint,
      network=self.network.identity,
      images=images.count,
      size=images.size,
      pooled=pooled.gaussian(),
      spatial=spatial.gaussian(),
      features=_interleave(features, (slots, self.rows, widths[0]))[
        : images.count
      ],
      logits=_interleave(logits, (slots, self.rows, widths[2]))[: images.count],
    )

  def features(self, batch: np.ndarray) -> Features:
    """Features of one batch [n, H, W, 3] without maps, on the host."""
    count = len(batch)
    # The last batch is padded: another shape would be another program.
    padded = np.pad(batch, ((0, self.rows - count), (0, 0), (0, 0), (0, 0)))
    placed = jax.device_put(padded, self._split)
    found = jax.device_get(self._apply(self._params, placed))
    return Features(*(a[:count] for a in found[:3]), maps=())


def keep(
  extract: Extractor,
  images: ImageSet,
  cache: str | os.PathLike[str] = '',
  report: Report = lambda *_: None,
) -> Statistics:
  """Statistics of a reference set, computed once.

  Args:
    extract: the network.
    images: the set.
    cache: folder; '' is the cache of varjax (VARJAX_CACHE).
    report: see `Extractor`; not called where there is a kept file.

  Raises:
    DataError: the kept file is damaged.
  """
  folder = pathlib.Path(cache or compilation.cache_directory() / 'references')
  name = f'{images.fingerprint}-{extract.network.identity}-v{_VERSION}.npz'
  path = folder / name
  if path.is_file():
    return _read(path, images, extract.network)
  found = extract(images, report)
  if jax.process_index() == 0:
    _write(path, found)
  return found


def _write(path: pathlib.Path, found: Statistics) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  arrays = {
    'features': found.features,
    'mean': found.pooled.mean,
    'covariance': found.pooled.covariance,
  }
  if found.spatial is not None:
    arrays['spatial_mean'] = found.spatial.mean
    arrays['spatial_covariance'] = found.spatial.covariance
  partial = path.with_name(f'{path.name}.partial-{os.getpid()}')
  with open(partial, 'wb') as file:
    np.savez(file, **arrays)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def _read(path: pathlib.Path, images: ImageSet, network: Network) -> Statistics:
  try:
    arrays = npz.read(str(path))
    pooled = Gaussian(arrays['mean'], arrays['covariance'])
    spatial = Gaussian(arrays['spatial_mean'], arrays['spatial_covariance'])
    features = arrays['features']
  except (errors.CheckpointError, KeyError) as error:
    raise errors.DataError(
      f'{path}: is damaged ({error}); remove it, it will be made again'
    ) from error
  return Statistics(
    label=images.label,
    fingerprint=images.fingerprint,
    network=network.identity,
    images=images.count,
    size=images.size,
    pooled=pooled,
    spatial=spatial,
    features=features,
  )


class _Stream:
  """Moments of batches that arrive one by one."""

  def __init__(self, size: int):
    self._total = Moments.empty(size)
    self._waiting: list[np.ndarray] = []

  def add(self, values: np.ndarray) -> None:
    self._waiting.append(values)
    if sum(map(len, self._waiting)) >= _CHUNK:
      self._flush()

  def gaussian(self) -> Gaussian:
    """Moments over every process."""
    self._flush()
    total = moments.merge_processes(self._total)
    return Gaussian(total.mean, total.covariance())

  def _flush(self) -> None:
    if self._waiting:
      part = Moments.of(np.concatenate(self._waiting))
      self._total = self._total.merge(part)
      self._waiting = []


def _interleave(
  mine: list[np.ndarray], shape: tuple[int, int, int]
) -> np.ndarray:
  """The batches of all processes in the order of the set, padded at its end.

  Args:
    mine: batches [n, F] of this process, in order.
    shape: batches of each process, rows of a batch, F.
  """
  slots = np.zeros(shape, np.float32)
  for slot, batch in zip(slots, mine, strict=False):
    slot[: len(batch)] = batch
  if jax.process_count() > 1:
    everyone = moments.gather(slots)  # [processes, batches, rows, F]
    slots = np.swapaxes(everyone, 0, 1)
  return slots.reshape(-1, shape[-1])

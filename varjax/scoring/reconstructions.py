"""How well a tokenizer gives images back: pair by pair, and as a set.

PSNR, SSIM and a perceptual distance compare an image with its own
reconstruction; the reconstruction Frechet distance ("rFID") compares the
two sets. Both are of 8-bit images, as they would be saved. Beside them, how
many of its codes a tokenizer uses for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import functools

import jax
import numpy as np

from varjax.evals import code_use, moments, perceptual, recon, ssim
from varjax.features import Network
from varjax.features.lpips import Lpips
from varjax.scoring import scores, statistics
from varjax.scoring.images import ImageSet
from varjax.scoring.statistics import Extractor, Report
from varjax.tokenizers import usage
from varjax.tokenizers.artifact import TrainedTokenizer
from varjax.types import PyTree

# uint8 [n, H, W, 3] -> [n, H, W, 3], floats in [0, 255] or uint8
Reconstruct = Callable[[np.ndarray], np.ndarray]
# uint8 [n, H, W, 3] and how many of them count -> picks of each code [K, V]
CountCodes = Callable[[np.ndarray, int], np.ndarray]


def evaluate(
  reconstruct: Reconstruct,
  images: ImageSet,
  extract: Extractor,
  *,
  options: scores.Options | None = None,
  metric: Lpips | None = None,
  count_codes: CountCodes | None = None,
  cache: str = '',
  label: str = 'reconstructions',
  report: Report = lambda *_: None,
) -> scores.Scores:
  """Scores of a tokenizer, or of anything that gives images back.

  Args:
    reconstruct: from images to their reconstructions in uint8; called with
      batches of one size, the last padded with zeros.
    images: what is reconstructed, and the reference.
    extract: the feature network.
    options: of the set scores, which keep their names with an 'r' before
      them ('rfd_efflite0').
    metric: also judges pairs by LPIPS.
    count_codes: counts the codes of a batch, for 'codes_used',
      'codes_used_1' to 'codes_used_K' by scale, and 'codes_perplexity'.
    cache: of the statistics of `images`, see `statistics.keep`.
    label: what the reconstructions are, for people.
    report: told (images done, images).

  Returns:
    Scores with 'psnr_db', 'ssim' (from 11 pixels on) and the perceptual
    distance 'pd_NETWORK' (and 'lpips'), each with its standard error over
    images; and the use of the codes, if they are counted.
  """
  pairs = _Pairs(extract.network, metric, images.size)
  picks = np.zeros(0)
  if count_codes is not None:
    # A process may have no batch, but takes part in the sum.
    blank = np.zeros((extract.rows, *images.size, 3), np.uint8)
    picks = count_codes(blank, 0)

  def batches(size: int, first: int, step: int) -> Iterator[np.ndarray]:
    nonlocal picks
    for batch in images.batches(size, first, step):
      count = len(batch)
      pad = ((0, size - count), (0, 0), (0, 0), (0, 0))
      padded = np.pad(batch, pad)
      given = np.asarray(reconstruct(padded))
      pairs.add(padded, given, count)
      if count_codes is not None:
        picks = picks + count_codes(padded, count)
      yield given[:count]

  fingerprint = f'{label} of {images.fingerprint}'
  back = dataclasses.replace(
    images, label=label, fingerprint=fingerprint, batches=batches
  )
  reference = statistics.keep(extract, images, cache)
  found = scores.score(extract(back, report), reference, extract.network,
                       options)  # fmt: skip
  mean, error = pairs.results()
  return dataclasses.replace(
    found,
    values=mean
    | {f'r{name}': value for name, value in found.values.items()}
    | _use(picks),
    errors=error | {f'r{name}': value for name, value in found.errors.items()},
  )


def of_tokenizer(trained: TrainedTokenizer) -> Reconstruct:
  """From uint8 images to reconstructions in [0, 255], float, not rounded."""
  tokenizer, params = trained.tokenizer, jax.device_put(trained.params)

  @jax.jit
  def reconstruct(params: PyTree, pixels: jax.Array) -> jax.Array:
    images = pixels.astype(np.float32) / 127.5 - 1
    given = tokenizer.decode(params, tokenizer.encode(params, images))
    return (given + 1) * 127.5

  return lambda pixels: np.asarray(reconstruct(params, pixels))


def codes_of(trained: TrainedTokenizer) -> CountCodes:
  """Counts the codes that a tokenizer gives to uint8 images."""
  tokenizer, params = trained.tokenizer, jax.device_put(trained.params)

  @jax.jit
  def count(
    params: PyTree, pixels: jax.Array, valid: jax.Array
  ) -> jax.Array:  # [K, V]
    codes = tokenizer.encode(params, pixels.astype(np.float32) / 127.5 - 1)
    return usage.count_codes(codes, tokenizer.code_spec, valid)

  def counts(pixels: np.ndarray, images: int) -> np.ndarray:
    valid = np.float32(np.arange(len(pixels)) < images)
    # Sums over batches, in float64: float32 counts no further than 2**24.
    return np.asarray(count(params, pixels, valid), np.float64)

  return counts


def rounded(reconstruct: Reconstruct) -> Reconstruct:
  """The same as 8-bit images, as they would be saved."""
  return lambda pixels: np.clip(np.round(reconstruct(pixels)), 0, 255).astype(
    np.uint8
  )


def _use(picks: np.ndarray) -> dict[str, float]:
  """Scores of the counts of all batches, over all processes."""
  if not picks.size:
    return {}
  use = code_use.of_counts(moments.gather(picks).sum(0))
  scales = {f'codes_used_{k}': x for k, x in enumerate(use.shares.tolist(), 1)}
  return {
    'codes_used': use.share,
    **(scales if len(scales) > 1 else {}),
    'codes_perplexity': use.perplexity,
  }


class _Pairs:
  """Means over pairs, with standard errors, over all processes."""

  def __init__(
    self, network: Network, metric: Lpips | None, size: tuple[int, int]
  ):
    self._names = ['psnr_db', scores.name_of('pd', network.name)]
    if min(size) >= ssim.WINDOW:
      self._names.append('ssim')
    if metric is not None:
      self._names.append('lpips')
    self._compare = jax.jit(functools.partial(_compare, network, metric))
    self._params = (network.params, metric.params if metric else None)
    self._moments = moments.Moments.empty(len(self._names))

  def add(self, images: np.ndarray, given: np.ndarray, count: int) -> None:
    values = jax.device_get(self._compare(self._params, images, given))
    rows = np.stack([values[name] for name in self._names], 1)[:count]
    self._moments = self._moments.merge(moments.Moments.of(rows))

  def results(self) -> tuple[dict[str, float], dict[str, float]]:
    total = moments.merge_processes(self._moments)
    mean = dict(zip(self._names, total.mean.tolist(), strict=True))
    if total.count < 2:
      return mean, {}
    error = np.sqrt(np.diag(total.covariance()) / total.count)
    return mean, dict(zip(self._names, error.tolist(), strict=True))


def _compare(
  network: Network,
  metric: Lpips | None,
  params: PyTree,
  images: jax.Array,
  given: jax.Array,
) -> dict[str, jax.Array]:
  images, given = images.astype(np.float32), given.astype(np.float32)
  maps = [network.forward(params[0], x).maps for x in (images, given)]
  a, b = images / 127.5 - 1, given / 127.5 - 1
  values = {
    'psnr_db': recon.psnr(a, b),
    scores.name_of('pd', network.name): perceptual.distance(*maps),
  }
  if min(images.shape[1:3]) >= ssim.WINDOW:
    values['ssim'] = ssim.ssim(a, b)
  if metric is not None:
    values['lpips'] = metric.distance(params[1], images, given)
  return values

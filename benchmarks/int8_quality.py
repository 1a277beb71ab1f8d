"""What int8 weights and an int8 cache cost: in loss and in greedy codes.

  python benchmarks/int8_quality.py --workdir W/d4 --codes CODES
  python benchmarks/int8_quality.py --quick     random weights, in minutes

One JSON line per case (weights and cache in the run's type or in int8).
`nats_per_token` is the teacher-forced loss of codes of the validation split;
it reads no cache, so that weights alone change it. `equal_codes` is the share
of greedy codes, without guidance, that are those of the reference on the same
labels. A code that differs changes all that follow: `equal_first` is the
share of codes before the first difference of their image.
"""

from __future__ import annotations

import argparse
import itertools

import decode
import jax
import jax.numpy as jnp
import networks
import numpy as np
import stopwatch

from varjax.evals import nll
from varjax.pipeline import VarPipeline
from varjax.spec import PrecisionSpec

_CASES = tuple(itertools.product(('', 'int8'), repeat=2))


def main(argv: list[str] | None = None) -> None:
  """Scores every combination of int8 and not."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--workdir', default='', help='of a trained run')
  parser.add_argument('--codes', default='', help='its code cache')
  parser.add_argument('--tokenizer', default='', help='if it has moved')
  parser.add_argument('--images', type=int, default=256, help='to score')
  parser.add_argument('--batch', type=int, default=64, help='images per call')
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  given = parser.parse_args(argv)
  if bool(given.workdir and given.codes) == given.quick:
    parser.error('give --workdir and --codes, or --quick')
  codes, labels = (_random if given.quick else _validation)(given)
  greedy = None
  for weights, cache in _CASES:
    pipe = _pipeline(given, PrecisionSpec(weights=weights, cache=cache))
    nats = _loss(pipe, codes, labels, given.batch)
    drawn = _greedy(pipe, labels, given.batch)
    greedy = drawn if greedy is None else greedy
    same = drawn == greedy
    stopwatch.line(
      'int8_quality',
      f'weights-{weights or "run"}/cache-{cache or "run"}',
      model=pipe.label,
      images=len(labels),
      weight_bytes=pipe.weight_bytes,
      nats_per_token=round(float(nats), 5),
      equal_codes=round(float(same.mean()), 5),
      equal_first=round(float(np.cumprod(same, axis=1).mean()), 5),
    )


def _pipeline(given, precision: PrecisionSpec) -> VarPipeline:
  if given.quick:
    run = networks.run_of(2, networks.TINY, compute_dtype='float32')
    return decode.pipeline_of(run, precision)
  return VarPipeline.from_workdir(
    given.workdir, tokenizer_dir=given.tokenizer, precision=precision
  )


def _random(given) -> tuple[np.ndarray, np.ndarray]:
  spec, rng = networks.TINY, np.random.default_rng(0)
  count = sum(height * width for height, width in spec.grids)
  given.batch = given.images = 8
  return rng.integers(0, spec.vocab, (8, count, 1)), np.arange(8)


def _validation(given) -> tuple[np.ndarray, np.ndarray]:
  from varjax.data import codes as code_cache

  source = code_cache.open_codes(given.codes, 'validation')
  index = np.arange(min(given.images, len(source)))
  found = [source[int(i)] for i in index]
  return (
    np.stack([item['codes'] for item in found]),
    np.asarray([item['label'] for item in found]),
  )


def _loss(pipe: VarPipeline, codes, labels, batch: int) -> float:
  """Mean nats of a token, over all images."""
  nats = []
  for start in range(0, len(labels), batch):
    part = jnp.asarray(codes[start : start + batch], jnp.int32)
    scales = _scales(codes[start : start + batch], pipe.grids)
    logits = pipe.logits(labels[start : start + batch], scales)
    nats.append(np.asarray(nll.cross_entropy(logits[:, :, None], part)))
  return np.concatenate(nats).mean()


def _scales(codes: np.ndarray, grids) -> list[np.ndarray]:
  """Codes [B, L, 1] as [B, h, w] for each scale."""
  ends = np.cumsum([height * width for height, width in grids])
  parts = np.split(codes[..., 0], ends[:-1], axis=1)
  return [x.reshape(-1, *g) for x, g in zip(parts, grids, strict=True)]


def _greedy(pipe: VarPipeline, labels, batch: int) -> np.ndarray:
  """Greedy codes [n, L] without guidance."""
  made = []
  for start in range(0, len(labels), batch):
    part = labels[start : start + batch]
    codes = pipe.sample(part, jax.random.key(0), cfg=0.0, top_k=1)[1]
    made.append(np.concatenate([c.reshape(len(part), -1) for c in codes], 1))
  return np.concatenate(made)


if __name__ == '__main__':
  main()

"""Images per second through the tokenizer's encoder and decoder.

  python benchmarks/tokenize_images.py --batch 32,128
  python benchmarks/tokenize_images.py --quick  tiny, in seconds on a CPU

One JSON line per case: what `varjax encode` compiles, the decoder, and the
decoder's last enlarging in two steps (repeated, then convolved) and in one.
`roofline_ms` is what products and bytes of `varjax.tokenizer_costs` take at the
device's measured speeds; null where the device is not known. `agreement` is
the share of codes that equal those of the float32 encoder on the same images;
with random weights it is a lower reading than with trained ones, whose
codebook is better separated.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import networks
import stopwatch

from varjax import devices, flops, tokenizer_costs
from varjax.tokenizers import enlarge, make_tokenizer
from varjax.tokenizers.base import encode_bytes


def main(argv: list[str] | None = None) -> None:
  """Times both directions in both types at every batch."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--batch', default='64', help='images per call')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--calls', type=int, default=5, help='per round')
  parser.add_argument('--quick', action='store_true', help='tiny shapes')
  given = parser.parse_args(argv)
  spec = networks.TINY if given.quick else networks.OFFICIAL
  if given.quick:
    given.batch, given.rounds, given.calls = '4', 2, 2
  resolution = spec.downsample * spec.grids[-1][0]
  exact = make_tokenizer(spec, resolution)
  weights = networks.random_like(
    lambda: exact.init(jax.random.key(0), resolution)
  )
  for batch in map(int, given.batch.split(',')):
    images = jax.random.randint(
      jax.random.key(1), (batch, resolution, resolution, 3), 0, 256, jnp.uint8
    )
    reference = _encoder(exact)(weights, images)
    for dtype in ('float32', 'bfloat16'):
      typed = dataclasses.replace(spec, compute_dtype=dtype)
      tokenizer = make_tokenizer(typed, resolution)
      encode, decode = _encoder(tokenizer), jax.jit(tokenizer.decode)
      codes = encode(weights, images)
      agreement = float(jnp.mean(codes == reference))
      for name, call in (
        ('encode', lambda e=encode, x=images: e(weights, x)),
        ('decode', lambda d=decode, c=codes: d(weights, c)),
      ):
        samples = stopwatch.seconds(call, given.rounds, given.calls)
        work = batch * flops.tokenizer_flops_per_image(spec, name)
        stopwatch.line(
          'tokenize',
          f'{name}/b{batch}/{dtype}',
          **stopwatch.timing(samples, batch),
          **stopwatch.speed(work, samples),
          **_floor(typed, name, batch, statistics.median(samples)),
          agreement=round(agreement, 5),
          peak_bytes=stopwatch.peak_memory(),
        )
    _enlarge(spec, batch, given)


def _encoder(tokenizer):
  """What `varjax encode` compiles."""
  return jax.jit(functools.partial(encode_bytes, tokenizer))


def _floor(spec, name: str, batch: int, seconds: float) -> dict[str, Any]:
  """What products and bytes alone would take; null without a known device."""
  moved = tokenizer_costs.tokenizer_bytes(spec, name, batch)
  facts = {'bytes': moved, 'roofline_ms': None, 'roofline_share': None}
  device = devices.find(jax.devices()[0].device_kind)
  if device is not None:
    work = flops.tokenizer_flops_per_image(spec, name)
    if name == 'decode':
      work -= tokenizer_costs.enlarging_flops_saved(spec)
    computing = batch * work / device.reached_flops
    least = max(computing, moved / device.reached_bandwidth)
    facts |= {
      'roofline_ms': round(1e3 * least, 3),
      'roofline_share': round(least / seconds, 4),
    }
  return facts


def _enlarge(spec, batch: int, given: argparse.Namespace) -> None:
  """The decoder's last enlarging, in the two ways that it can be done."""
  side, width = spec.downsample * spec.grids[-1][0] // 2, spec.ch
  width *= spec.ch_mult[1]
  key = jax.random.key(2)
  x = jax.random.normal(key, (batch, side, side, width), jnp.bfloat16)
  kernel = jax.random.normal(key, (3, 3, width, width)) / (9 * width) ** 0.5
  for form in (enlarge.in_two_steps, enlarge.in_one_step):
    call = functools.partial(jax.jit(form), x, kernel, jnp.zeros(width))
    samples = stopwatch.seconds(call, given.rounds, given.calls)
    stopwatch.line(
      'tokenize',
      f'{form.__name__}/b{batch}/bfloat16',
      **stopwatch.timing(samples, batch),
    )


if __name__ == '__main__':
  main()

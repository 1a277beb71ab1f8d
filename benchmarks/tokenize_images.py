"""Images per second through the tokenizer's encoder and decoder.

  python benchmarks/tokenize_images.py --batch 32,128
  python benchmarks/tokenize_images.py --quick  tiny, in seconds on a CPU

One JSON line per case. `agreement` is the share of codes that equal those
of the float32 encoder on the same images; with random weights it is a lower
reading than with trained ones, whose codebook is better separated.
"""

from __future__ import annotations

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import networks
import stopwatch

from varjax import flops
from varjax.tokenizers import make_tokenizer


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
    images = jax.random.uniform(
      jax.random.key(1), (batch, resolution, resolution, 3), minval=-1
    )
    reference = jax.jit(exact.encode)(weights, images)
    for dtype in ('float32', 'bfloat16'):
      tokenizer = make_tokenizer(
        dataclasses.replace(spec, compute_dtype=dtype), resolution
      )
      encode, decode = jax.jit(tokenizer.encode), jax.jit(tokenizer.decode)
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
          agreement=round(agreement, 5),
          peak_bytes=stopwatch.peak_memory(),
        )


if __name__ == '__main__':
  main()

"""One small tokenizer of every kind with a single grid, and features."""

import jax
import jax.numpy as jnp
import numpy as np

from varjax.spec import TokenizerSpec
from varjax.tokenizers.autoencoder import QUANTIZERS

GRID = (2, 3)
BATCH = 3


def spec(kind, **changes):
  fields = {
    'kind': kind, 'scales': (GRID,), 'code_dim': 4, 'vocab': 24,
    'ch': 8, 'ch_mult': (1, 1), 'num_res_blocks': 1, 'norm_groups': 4,
    'attention': False, 'quant_conv_size': 1,
  }  # fmt: skip
  return TokenizerSpec(**(fields | changes))


SPECS = {
  'vq': spec('vq'),
  'vq-cosine': spec('vq', znorm=True, latent_dim=6),
  'vq-entropy': spec('vq', entropy=0.1, entropy_temperature=2.0),
  'rq': spec('rq', codes_per_position=3),
  'fsq': spec('fsq', levels=(5, 4, 3), code_dim=3, vocab=60),
  'lfq': spec('lfq', code_dim=6, vocab=64, entropy=0.1, entropy_bits=3),
  'bsq': spec(
    'bsq', code_dim=6, vocab=8, codes_per_position=2, entropy=0.1,
    entropy_temperature=0.5,
  ),
}  # fmt: skip


def quantizer(tokenizer_spec, seed=0):
  """A quantizer with random weights of about unit size."""
  kind = QUANTIZERS[tokenizer_spec.kind]
  shapes = jax.eval_shape(lambda: kind.init(tokenizer_spec, jax.random.key(0)))
  rng = np.random.default_rng(seed)
  weights = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
    {name: leaf.value for name, leaf in shapes.items()},
  )
  return kind.bind(tokenizer_spec, weights)


def features(tokenizer_spec, seed=1):
  shape = (BATCH, *GRID, tokenizer_spec.code_dim)
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)

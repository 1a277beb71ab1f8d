"""A feature network of a few random numbers, where which one is no matter."""

import jax
import jax.numpy as jnp
import numpy as np

from varjax.features import Features, Network


def make(seed: int = 0, size: int = 6, name: str = 'tiny') -> Network:
  """Descriptors of `size` numbers, spatial ones of 4, and 5 classes."""
  rng = np.random.default_rng(seed)
  params = {
    'pooled': rng.normal(0, 0.1, (192, size)).astype('f4'),
    'logits': rng.normal(0, 0.5, (size, 5)).astype('f4'),
    'map': rng.normal(0, 1, (3, 4)).astype('f4'),
  }

  def forward(params, images):
    x = (images - 127) / 128
    maps = x @ params['map']
    flat = jax.image.resize(x, (len(x), 8, 8, 3), 'linear').reshape(len(x), -1)
    pooled = jnp.tanh(flat @ params['pooled'])
    return Features(pooled, flat[:, :4], pooled @ params['logits'], (maps,))

  return Network(
    name=name,
    resolution=0,
    preprocessing='none',
    params=params,
    forward=forward,
    resize=lambda images: images,
    label_count=5,
  )

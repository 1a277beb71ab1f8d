"""Codes made of bits: the sign of every channel, and entropies of signs.

What the binary lookup-free quantizers share. A position of C channels is cut
into R codes of C / R bits, the first bit of a code least significant. No
table of codes is ever formed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np


def pack(signs: Bool[Array, 'B L C'], codes: int) -> Int[Array, 'B L R']:
  """Bits to integers, `codes` of them at each position."""
  grouped = signs.reshape(*signs.shape[:-1], codes, -1).astype(jnp.int32)
  places = np.left_shift(1, np.arange(grouped.shape[-1], dtype=np.int32))
  return jnp.sum(grouped * places[None, None, None], -1)


def unpack(codes: Int[Array, 'B L R'], bits: int) -> Bool[Array, 'B L C']:
  """The inverse of `pack`, for codes of `bits` bits each."""
  shifts = np.arange(bits, dtype=np.int32)
  grouped = jnp.right_shift(codes[..., None], shifts[None, None, None]) & 1
  return grouped.reshape(*codes.shape[:-1], -1).astype(bool)


def to_values(
  signs: Bool[Array, 'B L C'], magnitude: float
) -> Float[Array, 'B L C']:
  """Bits as plus or minus the magnitude of a channel."""
  return jnp.where(signs, magnitude, -magnitude).astype(jnp.float32)


def entropy_penalty(
  z: Float[Array, 'B L C'],
  magnitude: float,
  temperature: float,
  diversity: float,
  group: int,
) -> Float[Array, '']:
  """Mean entropy of the soft choice, minus the entropy of its mean.

  The choice among all sign vectors, softmax(-|z - c|^2 / temperature), is a
  product over channels, so its entropy is a sum over them. The mean over
  positions is no product; its entropy is taken over groups of channels at a
  time, exact within a group and an upper bound over all of them.

  Args:
    z: features.
    magnitude: of a channel of a code.
    temperature: of the soft choice.
    diversity: weight of the entropy of the mean.
    group: channels taken together, a divisor of C; 1 treats all channels as
      independent (BSQ, arXiv 2406.07548, section 4.2), C is exact (LFQ,
      arXiv 2310.05737, equation 5) and forms 2^C numbers per position.
  """
  # |z - m|^2 - |z + m|^2 = -4 m z, so this is the log odds of a plus.
  odds = (4 * magnitude / temperature) * z
  plus, minus = jax.nn.log_sigmoid(odds), jax.nn.log_sigmoid(-odds)
  each = -jnp.exp(plus) * plus - jnp.exp(minus) * minus  # [B, L, C]
  sure = jnp.mean(jnp.sum(each, -1))
  pairs = jnp.stack([minus, plus], -1)  # [B, L, C, 2]
  pairs = pairs.reshape(-1, z.shape[-1] // group, group, 2)
  joint = jnp.zeros((*pairs.shape[:2], 1))
  for channel in range(group):
    joint = joint[..., None] + pairs[:, :, channel, None]
    joint = joint.reshape(*pairs.shape[:2], -1)
  mean = jnp.mean(jnp.exp(joint), 0)  # [C / group, 2^group]
  # x log x has an infinite slope at 0, where a combination never occurs.
  safe = jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)
  spread = -jnp.sum(mean * jnp.log(safe))
  return sure - diversity * spread

"""k-means: a codebook that starts where the features are.

A random codebook lies far from the first features, and most of its codes are
never picked. Lloyd's algorithm on features of the first batches puts every
code among them (SoundStream, arXiv 2107.03312, section III-C).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from varjax.tokenizers import nearest

_ITERATIONS = 10


def fit(
  rows: Float[Array, 'B C'],
  clusters: int,
  rng: jax.Array,
  znorm: bool = False,
  iterations: int = _ITERATIONS,
) -> Float[Array, 'V C']:
  """Lloyd's algorithm from `clusters` random rows.

  A pure function of its arguments. A cluster that loses all its rows starts
  again at a random one.

  Args:
    rows: vectors, at least as many as clusters.
    clusters: V.
    rng: draws the start, and the rows of empty clusters.
    znorm: assign rows by cosine instead of Euclidean distance.
    iterations: of assigning rows and averaging them.

  Returns:
    The centres; those of cosine clusters are not normalised.
  """
  start_rng, empty_rng = jax.random.split(rng)
  start = jax.random.choice(start_rng, rows, (clusters,), replace=False)

  def refine(centres: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
    nearest_centre = nearest.nearest(rows[None], centres, znorm)[0]
    sums = jnp.zeros_like(centres).at[nearest_centre].add(rows)
    sizes = jnp.zeros((clusters, 1)).at[nearest_centre].add(1)
    again = rows[jax.random.randint(key, (clusters,), 0, len(rows))]
    means = sums / jnp.maximum(sizes, 1)
    return jnp.where(sizes > 0, means, again), None

  keys = jax.random.split(empty_rng, iterations)
  return jax.lax.scan(refine, start, keys)[0]

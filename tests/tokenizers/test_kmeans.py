"""Lloyd's algorithm on planted clusters."""

import jax
import jax.numpy as jnp
import numpy as np

from varjax.tokenizers import kmeans, nearest

# Compiled once for all seeds.
FIT = jax.jit(kmeans.fit, static_argnames=('clusters', 'znorm', 'iterations'))
CENTRES = np.array([[0, 0], [8, 0], [0, 8], [-8, -8]], np.float32)


def _rows(seed=0):
  rng = np.random.default_rng(seed)
  rows = np.repeat(CENTRES, 50, 0) + rng.normal(size=(200, 2)) * 0.1
  return jnp.asarray(rng.permutation(rows), jnp.float32)


def _error(rows, centres):
  codes = nearest.nearest(rows[None], centres)[0]
  return float(jnp.mean(jnp.square(rows - centres[codes])))


def test_more_iterations_lower_the_error():
  rows, key = _rows(), jax.random.key(3)
  errors = [
    _error(rows, FIT(rows, 12, key, iterations=count)) for count in (0, 2, 10)
  ]
  assert errors[0] > errors[1] > errors[2]


def test_it_finds_planted_clusters():
  """From the best of a few starts: Lloyd's algorithm can get stuck."""
  rows = _rows()
  found = [FIT(rows, 4, jax.random.key(seed)) for seed in range(8)]
  best = min(found, key=lambda centres: _error(rows, centres))
  order = np.lexsort(np.round(np.asarray(best)).T)
  expected = CENTRES[np.lexsort(CENTRES.T)]
  np.testing.assert_allclose(np.asarray(best)[order], expected, atol=0.1)


def test_it_is_a_function_of_the_seed():
  rows = _rows()
  first, same, other = (
    FIT(rows, 6, jax.random.key(seed)) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, same)
  assert np.any(first != other)


def test_empty_clusters_start_again_at_rows():
  """Half of the rows are one point, which one cluster takes whole."""
  rows = jnp.concatenate([jnp.ones((50, 2)), _rows()[:50]])
  centres = FIT(rows, 30, jax.random.key(0))
  codes = nearest.nearest(rows[None], centres)[0]
  assert np.isfinite(centres).all()
  assert len(np.unique(codes)) > 15


def test_cosine_clusters_ignore_length():
  angles = np.repeat([0.3, 2.0, 4.0], 20) + np.linspace(-0.1, 0.1, 60)
  rows = np.stack([np.cos(angles), np.sin(angles)], 1)
  rows[::3] *= 100
  rows = jnp.asarray(rows, jnp.float32)
  fits = [FIT(rows, 3, jax.random.key(seed), znorm=True) for seed in range(8)]
  unit = [nearest.unit(centres) for centres in fits]
  best = min(unit, key=lambda centres: _error(nearest.unit(rows), centres))
  found = np.sort(np.arctan2(best[:, 1], best[:, 0]) % (2 * np.pi))
  np.testing.assert_allclose(found, [0.3, 2.0, 4.0], atol=0.15)

"""Spectral normalisation: kernels divided by their largest singular value.

The singular vectors are followed by one power iteration an update and kept
as state (Miyato et al., arXiv 1802.05957), so that the whole is a pure
function. Every leaf called 'kernel' is normalised; its last axis is the
output, all others together are the input.
"""

from __future__ import annotations

from flax import traverse_util
from flax.core import meta
import jax
import jax.numpy as jnp

from varjax.types import PyTree

# Enough for the estimate of a random matrix to be good to a few per cent.
_START_ITERATIONS = 15
_TINY = 1e-12


def start(params: PyTree, rng: jax.Array) -> PyTree:
  """State for `normalise`: a left singular vector [out] of each kernel.

  Args:
    params: nested dict, boxed or not.
    rng: key of the random start.
  """
  state = {}
  flat = traverse_util.flatten_dict(meta.unbox(params), sep='/')
  for index, (name, kernel) in enumerate(sorted(flat.items())):
    if name.rpartition('/')[2] == 'kernel':
      key = jax.random.fold_in(rng, index)
      vector = _unit(jax.random.normal(key, kernel.shape[-1:]))
      for _ in range(_START_ITERATIONS):
        vector, _ = _iterate(kernel, vector)
      state[name] = vector
  return state


def normalise(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
  """Divides every kernel by its largest singular value.

  The value is u' W v with u and v held fixed, so that its gradient is that
  of the singular value.

  Args:
    params: nested dict, boxed or not.
    state: of `start`.

  Returns:
    The weights, unboxed, and the state after one power iteration.
  """
  flat = traverse_util.flatten_dict(meta.unbox(params), sep='/')
  after = {}
  for name, before in state.items():
    kernel = flat[name]
    left, right = _iterate(jax.lax.stop_gradient(kernel), before)
    matrix = kernel.reshape(-1, kernel.shape[-1])  # [in, out]
    flat[name] = kernel / jnp.einsum('i,io,o->', right, matrix, left)
    after[name] = left
  return traverse_util.unflatten_dict(flat, sep='/'), after


def _iterate(kernel: jax.Array, left: jax.Array) -> tuple[jax.Array, jax.Array]:
  """One power iteration: the new left [out] and right [in] vectors."""
  matrix = kernel.reshape(-1, kernel.shape[-1])
  right = _unit(matrix @ left)
  return _unit(right @ matrix), right


def _unit(vector: jax.Array) -> jax.Array:
  return vector / jnp.maximum(jnp.linalg.norm(vector), _TINY)

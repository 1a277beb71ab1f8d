"""What programs are called with, as shapes alone: no data, no weights.

For an update it is the abstract twin of `inputs.open_inputs`.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from varjax import backbones, sharding
from varjax.spec import RunSpec
from varjax.tokenizers import make_tokenizer
from varjax.types import Batch, PyTree


def frozen(run: RunSpec, mesh: Mesh) -> PyTree:
  """Weights that the task of `run` reads and never changes, replicated.

  Raises:
    CheckpointError: those of a network that a loss looks through are missing.
  """
  if run.task == 'reconstruct':
    return _everywhere(backbones.frozen(run), mesh)
  tokenizer = make_tokenizer(run.tokenizer, run.data.resolution)

  def weights(key: jax.Array) -> PyTree:
    params = nn.meta.unbox(tokenizer.init(key, run.data.resolution))
    if run.input == 'images':
      return {'tokenizer': params}
    return {'quantizer': tokenizer.quantizer(params)}

  return shapes_of(weights, mesh)


def batch(run: RunSpec, mesh: Mesh) -> Batch:
  """A training batch of `run`, its images split as the loop splits them.

  Raises:
    ConfigError: the batch, heads or groups do not divide over the mesh.
  """
  sharding.check_run(run, mesh)
  rows = sharding.batch_sharding(mesh)
  size, side = run.batch_size, run.data.resolution
  shaped = {'label': _shaped((size,), jnp.int32, rows)}
  if run.task == 'generate' and run.input == 'codes':
    tokenizer = make_tokenizer(run.tokenizer, side)
    codes = tokenizer.code_spec
    shape = (size, codes.positions, codes.codes_per_position)
    shaped['codes'] = _shaped(shape, jnp.int32, rows)
  else:
    shaped['image'] = _shaped((size, side, side, 3), jnp.uint8, rows)
  return shaped


def shapes_of(init: Callable[[jax.Array], PyTree], mesh: Mesh) -> PyTree:
  """What `init` makes of a key, whole on every device of a mesh."""
  return _everywhere(jax.eval_shape(init, jax.random.key(0)), mesh)


def shaped(
  shape: tuple[int, ...], dtype: str, mesh: Mesh
) -> jax.ShapeDtypeStruct:
  """An array, whole on every device of a mesh."""
  return _shaped(shape, jnp.dtype(dtype), sharding.replicated(mesh))


def keys(count: int, mesh: Mesh) -> jax.ShapeDtypeStruct:
  """That many random keys."""
  made = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
  return _everywhere(made, mesh)


def _everywhere(tree: PyTree, mesh: Mesh) -> PyTree:
  where = sharding.replicated(mesh)
  return jax.tree.map(lambda x: _shaped(x.shape, x.dtype, where), tree)


def _shaped(shape, dtype, where: NamedSharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

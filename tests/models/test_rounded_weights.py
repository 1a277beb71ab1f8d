"""Kernels of the blocks are rounded once an update, and nothing changes."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from varjax import schedule, sharding, step
from varjax.aot import abstract
from varjax.models import weights
from varjax.spec import MeshSpec
from varjax.tasks import make_task

NOWHERE = pathlib.Path('nowhere')


def _run(**values):
  sizes = {'model.compute_dtype': 'bfloat16', 'model.width': 48, **values}
  return tiny.var_run(NOWHERE, NOWHERE, NOWHERE, **sizes)


def _casts(run) -> dict[str, int]:
  """How often the update rounds weights of a shape, by the shape."""
  mesh = sharding.make_mesh(MeshSpec(), jax.devices()[:1])
  program = step.Program(run, schedule.resolve_run(run, 30), mesh)
  arguments = program.abstract, abstract.frozen(run, mesh)
  arguments += abstract.batch(run, mesh), program.abstract_hyper
  with sharding.use_mesh(mesh):
    text = program.jitted(program.task).lower(*arguments).as_text()
  found = re.findall(
    r'stablehlo.convert .*tensor<([0-9x]+)xf32>\) -> tensor<\1xbf16>', text
  )
  return {shape: found.count(shape) for shape in set(found)}


def test_every_kernel_is_rounded_once_outside_of_the_loop():
  kernels = ('48x3x48', '48x48', '48x192', '192x48')
  found = _casts(_run(**{'model.remat': 'light'}))
  for shape in kernels:
    assert found.get(f'2x{shape}') == 1, shape
    assert found.get(shape, 0) + found.get(f'1x{shape}', 0) == 0, shape


def test_loss_and_gradients_are_those_of_rounding_in_every_product(monkeypatch):
  run = _run(**{'model.remat': 'dots', 'model.drop_path': 0.0})
  task = make_task(run)
  params, _ = task.init(jax.random.key(0))
  params = sharding.nn.meta.unbox(params)
  mesh = sharding.make_mesh(MeshSpec(), jax.devices()[:1])
  rng = np.random.default_rng(0)
  frozen = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype),
    abstract.frozen(run, mesh),
  )
  batch = {
    'codes': rng.integers(0, 32, (8, 21, 1)),
    'label': rng.integers(0, 3, 8),
  }

  def both():
    return jax.jit(jax.value_and_grad(task.loss_fn, has_aux=True))(
      params, {}, frozen, batch, jax.random.key(1)
    )

  (loss, _), grads = both()
  monkeypatch.setattr(weights, 'rounded_blocks', lambda params, _: params)
  (plain, _), wanted = both()
  assert loss == plain
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(grads),
    jax.tree.leaves(wanted),
    strict=True,
  ):
    assert a.dtype == b.dtype == jnp.float32
    np.testing.assert_allclose(
      a, b, rtol=0, atol=2**-8 * np.abs(b).max(), err_msg=str(path)
    )


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_only_kernels_of_blocks_change(dtype):
  run = _run()
  run = dataclasses.replace(
    run, model=dataclasses.replace(run.model, compute_dtype=dtype)
  )
  params, _ = jax.eval_shape(make_task(run).init, jax.random.key(0))
  params = sharding.nn.meta.unbox(params)
  found = jax.eval_shape(
    lambda tree: weights.rounded_blocks(tree, dtype), params
  )
  for path, leaf in jax.tree_util.tree_leaves_with_path(found):
    names = [key.key for key in path]
    kernel = 'blocks' in names and names[-1] == 'kernel'
    assert leaf.dtype == (dtype if kernel else 'float32'), names

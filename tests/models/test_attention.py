"""Attention back ends against a loop over queries in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from varjax.errors import ConfigError
from varjax.models import attention


def _by_hand(q, k, v, scale, steps):
  out = np.zeros_like(q)
  for b, i, n in np.ndindex(q.shape[:3]):
    seen = steps[b] <= steps[b, i]
    logits = scale * k[b, seen, n] @ q[b, i, n]
    weights = np.exp(logits - logits.max())
    out[b, i, n] = weights / weights.sum() @ v[b, seen, n]
  return out


def _qkv(length):
  rng = np.random.default_rng(0)
  return rng.normal(0, 1, (3, 2, length, 2, 4)).astype(np.float32)


@pytest.mark.parametrize('backend', ['auto', 'xla', 'blockwise'])
@pytest.mark.parametrize('blocks', [(1, 4, 2), (2, 3), (5,)])
def test_static_blocks(backend, blocks):
  q, k, v = _qkv(sum(blocks))
  steps = np.tile(attention.block_steps(blocks), (2, 1))
  found = attention.attend(
    *map(jnp.asarray, (q, k, v)), scale=0.7, blocks=blocks, backend=backend
  )
  np.testing.assert_allclose(found, _by_hand(q, k, v, 0.7, steps), atol=1e-5)


@pytest.mark.parametrize('backend', ['xla', 'blockwise'])
def test_dynamic_steps(backend):
  q, k, v = _qkv(5)
  steps = np.array([[0, 2, 1, 1, 3], [4, 3, 2, 1, 0]])
  found = attention.attend(
    *map(jnp.asarray, (q, k, v)),
    scale=1.0,
    steps=jnp.asarray(steps),
    backend=backend,
  )
  np.testing.assert_allclose(found, _by_hand(q, k, v, 1.0, steps), atol=1e-5)


def test_blockwise_builds_no_square_array():
  q, k, v = map(jnp.asarray, _qkv(21))

  def shapes(backend):
    jaxpr = jax.make_jaxpr(
      lambda *x: attention.attend(
        *x, scale=1.0, blocks=(1, 4, 16), backend=backend
      )
    )(q, k, v)
    return {tuple(e.outvars[0].aval.shape[-2:]) for e in jaxpr.eqns}

  assert (21, 21) in shapes('xla')
  assert (21, 21) not in shapes('blockwise')


def test_unknown_backend():
  q, k, v = map(jnp.asarray, _qkv(2))
  with pytest.raises(ConfigError, match=r'flush.*one of auto, blockwise'):
    attention.attend(q, k, v, scale=1.0, backend='flush')


@pytest.mark.gpu
@pytest.mark.parametrize('backend', ['cudnn', 'flash'])
def test_gpu_back_ends_equal_the_reference(backend):
  q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in _qkv(21))
  q, k, v = (jnp.tile(x, (1, 1, 1, 16)) for x in (q, k, v))
  options = {'scale': 0.2, 'blocks': (1, 4, 16)}
  expected = attention.attend(q, k, v, backend='xla', **options)
  found = attention.attend(q, k, v, backend=backend, **options)
  np.testing.assert_allclose(
    found.astype(jnp.float32), expected.astype(jnp.float32), atol=0.02
  )


def test_many_blocks_are_masked_and_not_unrolled():
  q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 80, 1, 4))
  blocks = (1,) * 80

  def found(backend):
    return attention.attend(q, k, v, scale=1.0, blocks=blocks, backend=backend)

  np.testing.assert_allclose(found('blockwise'), found('xla'), atol=1e-6)
  program = jax.make_jaxpr(lambda: found('blockwise'))()
  assert len(program.eqns) < 40

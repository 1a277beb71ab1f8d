"""What is counted without JAX is what attention takes."""

import itertools

import jax.numpy as jnp
import pytest

from varjax import backends
from varjax.models import attention
from varjax.params import Sequence
from varjax.spec import ModelSpec


def _sequence(blocks):
  return Sequence(blocks, 1, 8, 64, sum(blocks), len(blocks))


@pytest.mark.parametrize('platform', ['cpu', 'gpu', 'cuda', 'tpu', 'rocm'])
@pytest.mark.parametrize('backend', ['auto', 'flash', 'cudnn', 'xla'])
def test_the_rule_is_that_of_attention(platform, backend, monkeypatch):
  monkeypatch.setattr(attention, 'target_platform', lambda: platform)
  taken = []

  def kernel(name):
    return lambda q, *_, **__: taken.append(name) or q

  for name in set(attention.BACKENDS) - {'flash'}:
    monkeypatch.setitem(attention.BACKENDS, name, kernel(name))
  monkeypatch.setattr(attention.flash_kernel, 'attend', kernel('flash'))
  cases = itertools.product(
    ('float32', 'bfloat16'), (16, 24, 64), ((1, 4), (1, 4, 9))
  )
  for dtype, head, blocks in cases:
    model = ModelSpec(
      width=2 * head, heads=2, compute_dtype=dtype, attention=backend
    )
    x = jnp.zeros((1, sum(blocks), 2, head), dtype)
    attention.attend(x, x, x, scale=1.0, blocks=blocks, backend=backend)
    found = backends.of_model(model, _sequence(blocks), platform)
    assert found == taken.pop(), (dtype, head, blocks)


def test_where_the_platform_is_unknown_nothing_is_spared():
  model = ModelSpec()
  blocks = _sequence((1, 4, 9))
  assert backends.of_model(model, blocks, None) == 'xla'
  assert not backends.normalises('xla', model)
  assert backends.of_model(model, blocks, 'gpu') == 'flash'
  assert backends.of_model(model, blocks, 'gpu', divides=False) == 'cudnn'
  assert backends.of_model(model, _sequence((14,)), 'gpu') == 'cudnn'
  assert backends.normalises('flash', model)
  assert not backends.normalises('flash', ModelSpec(l2_norm=False))
  assert not backends.normalises('flash', ModelSpec(position='rotary2d'))

"""The flash kernels as a program for NVIDIA GPUs, lowered without one."""

import gpu_program
import jax
import jax.numpy as jnp
import pytest

from varjax.models.flash import block_causal, cached

BLOCKS = tuple(n * n for n in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))


@pytest.mark.parametrize('cosine', [False, True])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize('packed', [False, True])
def test_official_size_lowers_with_gradients(packed, cosine, dtype):
  x = jax.ShapeDtypeStruct((8, 680, 16, 64), dtype)
  scale = jax.ShapeDtypeStruct((16,), jnp.float32)

  def program(q, k, v, head_scale, grad):
    def attend(q, k, v, head_scale):
      rule = {'scale': 0.125, 'blocks': BLOCKS}
      if cosine:
        rule['unit_scale'] = head_scale
      if packed:
        return block_causal.attend_packed(jnp.stack([q, k, v], 2), **rule)
      return block_causal.attend(q, k, v, **rule)

    out, pull = jax.vjp(attend, q, k, v, head_scale)
    return out, pull(grad)

  text = gpu_program.lowered(program, x, x, x, scale, x)
  for name in ('flash_forward', 'flash_dq', 'flash_dkv'):
    assert name in text
  assert text.count('@__gpu$xla.gpu.triton') == 3


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.int8])
def test_a_cached_step_lowers(dtype):
  q = jax.ShapeDtypeStruct((2, 1, 16, 64), jnp.bfloat16)
  past = jax.ShapeDtypeStruct((16, 2, 680, 16, 64), dtype)
  scales = None
  if dtype == jnp.int8:
    scales = jax.ShapeDtypeStruct(past.shape[:-1], jnp.float32)
  number = jax.ShapeDtypeStruct((), jnp.int32)

  def program(q, past, scales, visible, layer):
    whole = cached.Past(past, past, scales, scales, layer)
    return cached.attend(q, q, q, whole, scale=1.0, visible=visible)

  text = gpu_program.lowered(program, q, past, scales, number, number)
  assert 'flash_cached' in text

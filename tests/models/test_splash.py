"""JAX's TPU attention kernel under our mask, interpreted on a CPU."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
import numpy as np
import pytest

from varjax import sharding
from varjax.errors import ConfigError
from varjax.models import attention, splash
from varjax.spec import MeshSpec

# No block ends where a tile does; 150 positions are padded to 256.
BLOCKS = (1, 4, 16, 49, 80)


def _arrays(blocks, heads=2):
  rng = np.random.default_rng(0)
  shape = (4, 2, sum(blocks), heads, 8)
  return tuple(jnp.asarray(x, jnp.float32) for x in rng.normal(0, 1, shape))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _with_gradients(backend, blocks, scale, q, k, v, weights):
  """Outputs and the gradients of a weighted sum of them."""

  def loss(q, k, v):
    out = attention.attend(q, k, v, scale=scale, blocks=blocks, backend=backend)
    return jnp.sum(out * weights), out

  grads, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
  return out, *grads


@pytest.mark.parametrize(
  ('blocks', 'scale', 'tile'),
  [(BLOCKS, 1.0, 128), (BLOCKS, 0.25, 256), ((1, 4, 9), 0.7, 128)],
)
def test_equals_the_reference_with_gradients(monkeypatch, blocks, scale, tile):
  monkeypatch.setattr(splash, 'MAX_TILE', tile)
  assert splash.tile_of(blocks) == tile
  _with_gradients.clear_cache()
  arrays = _arrays(blocks)
  found = _with_gradients('splash', blocks, scale, *arrays)
  expected = _with_gradients('xla', blocks, scale, *arrays)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_mesh_changes_nothing():
  arrays = _arrays(BLOCKS)
  expected = _with_gradients('xla', BLOCKS, 1.0, *arrays)
  mesh = sharding.make_mesh(MeshSpec(1, 2, 2), jax.devices()[:4])
  with sharding.use_mesh(mesh):
    found = _with_gradients('splash', BLOCKS, 1.0, *arrays)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_inside_a_shard_map_the_arrays_are_local():
  q, k, v, _ = _arrays(BLOCKS)
  mesh = sharding.make_mesh(MeshSpec(2, 1, 1), jax.devices()[:2])
  spec = PartitionSpec('data')

  def local(q, k, v):
    return attention.attend(q, k, v, scale=1.0, blocks=BLOCKS, backend='splash')

  split = jax.shard_map(
    local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  expected = attention.attend(q, k, v, scale=1.0, blocks=BLOCKS, backend='xla')
  np.testing.assert_allclose(jax.jit(split)(q, k, v), expected, atol=1e-5)


@pytest.mark.parametrize(
  ('mesh', 'key'),
  [(MeshSpec(1, 4, 1), 'batch_size=2'), (MeshSpec(1, 1, 4), 'heads=2')],
)
def test_what_does_not_divide_is_refused(mesh, key):
  arrays = _arrays(BLOCKS)
  mesh = sharding.make_mesh(mesh, jax.devices()[:4])
  with sharding.use_mesh(mesh), pytest.raises(ConfigError, match=key):
    _with_gradients('splash', BLOCKS, 1.0, *arrays)


def test_no_position_sees_the_padding():
  mask = splash.mask_of(BLOCKS)
  steps = attention.block_steps(BLOCKS)
  length = len(steps)
  assert mask.shape == (256, 256)
  np.testing.assert_array_equal(
    mask[:length, :length], steps[:, None] >= steps[None]
  )
  assert not mask[:length, length:].any()
  assert mask[length:].all()


def test_tiles_divide_the_padded_length():
  at_256 = tuple(n * n for n in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
  at_512 = tuple(n * n for n in (1, 2, 3, 4, 6, 9, 13, 18, 24, 32))
  assert splash.padded_length(sum(at_256)) == 768
  assert splash.padded_length(sum(at_512)) == 2304
  for blocks in (at_256, at_512, BLOCKS, (1, 4)):
    tile = splash.tile_of(blocks)
    assert tile <= splash.MAX_TILE
    assert splash.padded_length(sum(blocks)) % tile == 0


def test_without_static_blocks_the_reference_is_used():
  q, k, v, _ = _arrays((3, 2))
  steps = jnp.asarray([[0, 2, 1, 1, 3], [4, 3, 2, 1, 0]])
  for rule in (None, steps):
    found, expected = (
      attention.attend(q, k, v, scale=0.3, steps=rule, backend=backend)
      for backend in ('splash', 'xla')
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ('platform', 'dtype', 'backend'),
  [
    ('tpu', jnp.bfloat16, 'splash'),
    ('tpu', jnp.float32, 'splash'),
    ('gpu', jnp.bfloat16, 'flash'),
    ('gpu', jnp.float32, 'blockwise'),
    ('cpu', jnp.bfloat16, 'xla'),
  ],
)
def test_the_platform_compiled_for_chooses(platform, dtype, backend):
  device = jax.sharding.AbstractDevice(
    device_kind='any', num_cores=None, platform=platform
  )
  mesh = AbstractMesh((1,), ('data',), abstract_device=device)
  assert attention.target_platform() == 'cpu'
  with jax.sharding.use_abstract_mesh(mesh):
    assert attention.target_platform() == platform
    assert attention.choose('auto', dtype) == backend
    assert attention.choose('xla', dtype) == 'xla'

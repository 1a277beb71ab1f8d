"""Discriminators: shapes, counts, numerics, and loading of the backbone."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import vit_case

from varjax import backbones, errors
from varjax.discriminators import dino, make_discriminator, spectral, vit
from varjax.discriminators.norm import BatchStatNorm
from varjax.spec import AdversarialSpec

KEY = jax.random.key(0)


def _count(params):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(nn.unbox(params)))


def _images(count, side):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.uniform(-1, 1, (count, side, side, 3)), jnp.float32)


def test_patch_discriminator_is_the_network_of_pix2pix():
  """2,765,633 weights are those of the 70 x 70 PatchGAN with BatchNorm."""
  spec = AdversarialSpec(discriminator='patch')
  made = make_discriminator(spec, 256)
  params, state = jax.eval_shape(made.init, KEY)
  convolutions = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
  assert _count(params) == convolutions + 64 + 1 + 2 * (128 + 256 + 512)
  assert _count(params) == 2_765_633
  assert state == {}
  logits = jax.eval_shape(
    lambda p: made.logits(p, {}, jnp.zeros((2, 256, 256, 3)), KEY),
    nn.unbox(params),
  )
  assert logits.shape == (2, 30 * 30)


def test_patch_discriminator_needs_images_of_some_size():
  with pytest.raises(errors.ConfigError, match=r'adversarial\.layers=3'):
    make_discriminator(AdversarialSpec(discriminator='patch'), 16)


def test_batch_statistics_normalise_over_everything_but_channels():
  x = 3 + 2 * jax.random.normal(KEY, (4, 5, 6, 7))
  out, variables = BatchStatNorm().init_with_output(KEY, x)
  np.testing.assert_allclose(out.mean((0, 1, 2)), np.zeros(7), atol=1e-6)
  np.testing.assert_allclose(out.std((0, 1, 2)), np.ones(7), rtol=1e-4)
  assert _count(variables['params']) == 14


def test_spectral_norm_finds_the_largest_singular_value():
  kernels = {
    'a': {'kernel': jax.random.normal(KEY, (3, 4, 5)), 'bias': jnp.ones(5)},
    'b': {'kernel': jax.random.normal(jax.random.key(1), (6, 2))},
  }
  state = spectral.start(kernels, KEY)
  for _ in range(30):
    weights, state = spectral.normalise(kernels, state)
  for name, entry in kernels.items():
    matrix = np.asarray(entry['kernel']).reshape(-1, entry['kernel'].shape[-1])
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    np.testing.assert_allclose(
      weights[name]['kernel'], entry['kernel'] / largest, rtol=1e-4, atol=1e-6
    )
  np.testing.assert_array_equal(weights['a']['bias'], np.ones(5))
  # Scaling a kernel changes nothing, so the gradient along it is 0.
  slope = jax.grad(
    lambda k: jnp.sum(jnp.sin(spectral.normalise(k, state)[0]['b']['kernel']))
  )(kernels)['b']['kernel']
  assert np.any(np.abs(slope) > 1e-2)
  assert abs(float(jnp.sum(slope * kernels['b']['kernel']))) < 1e-5


def test_vit_matches_a_written_out_one():
  state = vit_case.state()
  weights = vit.from_state(state, 'here')
  images = _images(1, vit.SIDE)
  found = jax.jit(vit.tokens, static_argnums=2)(
    weights, images, dino.READ_AFTER
  )
  expected = vit_case.reference_tokens(state, images, dino.READ_AFTER)
  assert len(found) == 5
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


def test_vit_refuses_other_weights():
  state = vit_case.state(depth=1)
  with pytest.raises(errors.CheckpointError, match=r"'blocks.0.attn.qkv.bias'"):
    vit.from_state(
      {k: v for k, v in state.items() if k != 'blocks.0.attn.qkv.bias'}, 'f'
    )
  state['pos_embed'] = state['pos_embed'][:, :100]
  with pytest.raises(errors.CheckpointError, match='pos_embed has shape'):
    vit.from_state(state, 'f')


def test_dino_heads_have_the_published_size():
  made = make_discriminator(AdversarialSpec(discriminator='dino'), 256)
  params, state = jax.eval_shape(made.init, KEY)
  head = 384 * 384 + 384 + 9 * 384 * 384 + 384 + 4 * 384 + 384 + 1
  assert _count(params) == 5 * head == 7_386_245
  assert len(state) == 15


@pytest.mark.parametrize('side', [64, 256])
def test_dino_logits_of_every_patch_from_any_size(side):
  made = dino.DinoDiscriminator(AdversarialSpec(), side, width=64)
  weights = vit.from_state(vit_case.state(), 'here')
  prepared, _ = jax.eval_shape(lambda k: made.prepare(*made.init(k)), KEY)
  logits = jax.eval_shape(
    made.logits, prepared, weights, jnp.zeros((2, side, side, 3)), KEY
  )
  assert logits.shape == (2, 5 * 196)


def test_backbone_comes_from_a_file_and_its_content_is_its_name(tmp_path):
  state = vit_case.state(width=384)
  one, other = tmp_path / 'dino.safetensors', tmp_path / 'other.safetensors'
  safetensors.numpy.save_file(state, one)
  safetensors.numpy.save_file(
    {**state, 'norm.bias': state['norm.bias'] + 1}, other
  )
  spec = AdversarialSpec(discriminator='dino', weights=str(one))
  weights, digest = backbones.discriminator_backbone(spec)
  assert len(weights['blocks']) == 12
  changed = AdversarialSpec(discriminator='dino', weights=str(other))
  assert backbones.discriminator_backbone(changed)[1] != digest
  safetensors.numpy.save_file(vit_case.state(depth=3), other)
  small = AdversarialSpec(discriminator='dino', weights=f'{other}')
  backbones.discriminator_backbone.cache_clear()
  with pytest.raises(errors.CheckpointError, match='width 64 and depth 3'):
    backbones.discriminator_backbone(small)
  missing = AdversarialSpec(discriminator='dino', weights=str(tmp_path / 'no'))
  with pytest.raises(errors.CheckpointError, match='cannot be opened'):
    backbones.discriminator_backbone(missing)

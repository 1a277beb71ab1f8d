"""Official state dicts: names, layouts and the errors about them."""

import dataclasses

from flax.core import meta
import jax
import numpy as np
import pytest

from varjax import errors
from varjax.interop import official_vae
from varjax.spec import TokenizerSpec
from varjax.tokenizers import make_tokenizer

SPEC = TokenizerSpec(
  ch=8, ch_mult=(1, 2), num_res_blocks=1, norm_groups=4, code_dim=4,
  vocab=16, scales=(1, 2, 4), phi_count=2,
)  # fmt: skip


def _random_params(spec):
  tokenizer = make_tokenizer(spec, 8)
  shapes = jax.eval_shape(
    lambda: meta.unbox(tokenizer.init(jax.random.key(0), 8))
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), shapes
  )


@pytest.fixture(scope='module')
def params():
  return _random_params(SPEC)


@pytest.fixture
def state(params):
  return official_vae.to_official(SPEC, params)


def test_names(state):
  for name in (
    'encoder.down.0.downsample.conv.weight',
    'encoder.down.1.block.0.nin_shortcut.bias',
    'encoder.down.1.attn.0.qkv.weight',
    'encoder.mid.attn_1.proj_out.weight',
    'decoder.up.1.upsample.conv.weight',
    'decoder.up.0.block.1.norm2.weight',
    'decoder.mid.block_2.conv1.bias',
    'decoder.norm_out.weight',
    'quantize.embedding.weight',
    'quantize.quant_resi.qresi_ls.1.weight',
    'post_quant_conv.bias',
  ):
    assert name in state


@pytest.mark.parametrize(
  ('count', 'name'),
  [
    (0, 'quantize.quant_resi.2.weight'),
    (1, 'quantize.quant_resi.qresi.weight'),
    (3, 'quantize.quant_resi.qresi_ls.2.weight'),
  ],
)
def test_phi_names(count, name):
  spec = dataclasses.replace(SPEC, phi_count=count)
  params = _random_params(spec)
  state = official_vae.to_official(spec, params)
  assert name in state
  _assert_same(official_vae.from_official(spec, state), params)


def test_round_trip_is_exact(params, state):
  _assert_same(official_vae.from_official(SPEC, state), params)


def test_kernels_are_transposed(params, state):
  ours = params['encoder']['conv_in']['kernel']
  theirs = state['encoder.conv_in.weight']
  assert ours.shape == (3, 3, 3, 8)
  assert theirs.shape == (8, 3, 3, 3)
  assert theirs[5, 2, 0, 1] == ours[0, 1, 2, 5]


def test_the_usage_buffer_is_carried_and_ignored(params):
  usage = np.ones((3, 16), np.float32)
  state = official_vae.to_official(SPEC, params, usage)
  np.testing.assert_array_equal(state[official_vae.USAGE_BUFFER], usage)
  state[official_vae.USAGE_BUFFER] = np.ones((10, 16))
  _assert_same(official_vae.from_official(SPEC, state), params)


def test_errors_name_the_tensor(state):
  name = 'decoder.up.0.block.1.conv2.weight'
  value = state.pop(name)
  with pytest.raises(errors.CheckpointError, match=f'{name}: missing'):
    official_vae.from_official(SPEC, state)
  state[name] = value[:-1]
  with pytest.raises(errors.CheckpointError, match=f'{name}: shape'):
    official_vae.from_official(SPEC, state)
  state[name] = value
  state['decoder.extra'] = value
  with pytest.raises(errors.CheckpointError, match='extra: in the checkpoint'):
    official_vae.from_official(SPEC, state)


def test_weights_of_another_spec_are_refused(params):
  spec = dataclasses.replace(SPEC, vocab=17)
  with pytest.raises(errors.CheckpointError, match='quantizer/embedding'):
    official_vae.to_official(spec, params)


@pytest.mark.parametrize('change', [{'kind': 'vq'}, {'latent_dim': 16}])
def test_other_tokenizers_have_no_official_form(params, change):
  spec = dataclasses.replace(SPEC, **change)
  with pytest.raises(errors.CheckpointError, match=r'tokenizer\.kind='):
    official_vae.to_official(spec, params)


def test_spec_from_config():
  assert official_vae.spec_from_config({}) == TokenizerSpec()
  spec = official_vae.spec_from_config(
    {
      'ch': 32, 'Cvae': 8, 'V': 64, 'patch_nums': [1, [2, 3]],
      'quant_resi': -0.5, 'share_quant_resi': 0, 'using_znorm': True,
      'quant_conv_ks': 1, 'depth': 4,
    }
  )  # fmt: skip
  assert spec == TokenizerSpec(
    ch=32, code_dim=8, vocab=64, scales=(1, (2, 3)), phi_count=0,
    znorm=True, quant_conv_size=1,
  )  # fmt: skip


def _assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)

"""The tokenizer against the official PyTorch code, number by number.

Tolerances are those of the fixtures: ids exact, features 1e-4, images 3e-4,
gradients 1e-3 of the tensor's largest entry.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import parity_case
import pytest

from varjax.interop import official_vae
from varjax.tokenizers import make_tokenizer, msvq, usage

_ZERO_GRADIENT = 1e-5


def _to_nchw(x):
  return np.moveaxis(np.asarray(x), -1, 1)


def _to_nhwc(x):
  return jnp.moveaxis(jnp.asarray(x), 1, -1)


@pytest.fixture(scope='module', params=['open_a', 'open_b', 'open_c'])
def case(request, parity_dir):
  found = parity_case.load(parity_dir, request.param)
  spec = official_vae.spec_from_config(found.config)
  images = jnp.asarray(found.images)
  tokenizer = make_tokenizer(spec, images.shape[1])
  params = jax.tree.map(
    jnp.asarray, official_vae.from_official(spec, found.vae)
  )
  quantizer = tokenizer.quantizer(params)

  @jax.jit  # one compilation for all that the encoder is tested on
  def encode(params, images):
    encoder = tokenizer._encoder.apply({'params': params['encoder']}, images)
    features = tokenizer.encode_features(params, images)
    return encoder, features, tokenizer.encode(params, images)

  encoder, features, codes = encode(params, images)
  return types.SimpleNamespace(
    config=found.config,
    state=found.vae,
    inputs=found.inputs,
    outputs=found.outputs,
    spec=spec,
    images=images,
    tokenizer=tokenizer,
    params=params,
    quantizer=quantizer,
    encode=encode,
    encoder=encoder,
    features=features,
    codes=codes,
  )


def _expected(outputs, name):
  """An output, and the stride at which its pixels were stored."""
  for key, value in outputs.items():
    if key == name or key.startswith(f'{name}@s'):
      return value, int(key.partition('@s')[2] or 1)
  raise AssertionError(f'the fixture has no {name}')


def _check_images(outputs, name, images):
  expected, stride = _expected(outputs, name)
  found = _to_nchw(images)[..., ::stride, ::stride]
  np.testing.assert_allclose(found, expected, rtol=0, atol=3e-4, err_msg=name)


def test_weights_convert_back_bit_for_bit(case):
  back = official_vae.to_official(case.spec, case.params)
  assert back.keys() == case.state.keys()
  for name, value in case.state.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_features(case):
  for name, value in (('encoder', case.encoder), ('f', case.features)):
    np.testing.assert_allclose(
      _to_nchw(value), case.outputs[f'vae/{name}'], rtol=0, atol=1e-4
    )


def test_codes_and_sums(case):
  sums = msvq.partial_sums(case.quantizer, case.codes)
  parts = msvq.split(case.quantizer, case.codes)
  assert len(parts) == len(case.config['patch_nums'])
  for k, (code, total) in enumerate(zip(parts, sums, strict=True)):
    np.testing.assert_array_equal(
      code[..., 0], case.outputs[f'vae/idx_{k}'], err_msg=str(k)
    )
    np.testing.assert_allclose(
      _to_nchw(total), case.outputs[f'vae/fhat_{k}'], rtol=0, atol=1e-4
    )


def test_teacher_inputs(case):
  inputs = msvq.teacher_inputs(case.quantizer, case.codes)
  np.testing.assert_allclose(
    inputs, case.outputs['vae/var_input'], rtol=0, atol=1e-4
  )


def test_images(case):
  sums = msvq.partial_sums(case.quantizer, case.codes)
  grown = msvq.grow_sums(case.quantizer, case.codes)
  assert [g.shape[1:3] for g in grown] == list(case.spec.grids)
  features = {
    'rec_last': sums[-1],
    'rec_scale1': sums[1],
    'idx_to_img_same': msvq.sum_codes(case.quantizer, case.codes),
    'idx_to_img_grow': grown[-1],
    'decode_f': case.features,
  }
  images = jax.jit(case.tokenizer.decode_features)(
    case.params, jnp.concatenate(list(features.values()))
  )
  for name, image in zip(features, jnp.split(images, 5), strict=True):
    _check_images(case.outputs, f'vae/{name}', image)


def test_rectangular_schedule(case):
  grids = tuple(tuple(g) for g in case.config['rect'])
  spec = dataclasses.replace(case.spec, scales=grids)
  size = tuple(16 * side for side in grids[-1])
  tokenizer = make_tokenizer(spec, size)
  rows, columns = (
    np.arange(n) * side // n
    for n, side in zip(size, case.images.shape[1:3], strict=True)
  )
  images = case.images[:, rows][:, :, columns]

  @jax.jit
  def encode_and_decode(params, images):
    codes = tokenizer.encode(params, images)
    return codes, tokenizer.decode(params, codes)

  codes, decoded = encode_and_decode(case.params, images)
  quantizer = tokenizer.quantizer(case.params)
  for k, code in enumerate(msvq.split(quantizer, codes)):
    np.testing.assert_array_equal(code[..., 0], case.outputs[f'rect/idx_{k}'])
  total = msvq.sum_codes(quantizer, codes)
  np.testing.assert_allclose(
    _to_nchw(total), case.outputs['rect/fhat'], rtol=0, atol=1e-4
  )
  _check_images(case.outputs, 'rect/rec_last', decoded)


def test_training_forward_and_gradients(case):
  tokenizer, spec = case.tokenizer, case.spec
  probe = _to_nhwc(case.inputs['vae_probe_i8'].astype(np.float32) / 8)

  def objective(params, images):
    quantized = msvq.quantize(
      tokenizer.quantizer(params),
      tokenizer.encode_features(params, images),
      spec.commitment,
    )
    output = tokenizer.decode_unclipped(params, quantized.features)
    value = quantized.loss + jnp.mean(output * probe)
    return value, (quantized, output)

  (value, (quantized, output)), (grads, grad_images) = jax.jit(
    jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
  )(case.params, case.images)

  outputs = case.outputs
  np.testing.assert_array_equal(quantized.codes, case.codes)
  _check_images(outputs, 'vae_train/rec', output)
  for name, found in (('vq_loss', quantized.loss), ('objective', value)):
    np.testing.assert_allclose(found, outputs[f'vae_train/{name}'], atol=1e-4)

  expected, stride = _expected(outputs, 'vae_train/grad_img')
  found = _to_nchw(grad_images)[..., ::stride, ::stride]
  _check_gradient(found, expected, 'images')
  grads = official_vae.to_official(spec, grads)
  checked = 0
  for key, expected in outputs.items():
    kind, _, name = key.removeprefix('vae_train/').partition('/')
    if key.startswith('vae_train/') and kind == 'grad':
      _check_gradient(grads[name], expected, name)
    elif key.startswith('vae_train/') and kind == 'gnorm':
      checked += 1
      _check_gradient(np.linalg.norm(grads[name]), expected, name)
  assert checked == len(grads)


def test_usage_with_the_official_quirk(case):
  outputs, code_spec = case.outputs, case.tokenizer.code_spec
  flipped = case.images[::-1, :, ::-1] * 0.5
  _, second, _ = case.encode(case.params, flipped)
  state = usage.start(code_spec)
  for step, features in ((1, case.features), (2, second)):
    quantized = msvq.quantize(case.quantizer, features, case.spec.commitment)
    counts = usage.count_codes(quantized.codes, code_spec)
    state = usage.update(state, counts, official=True)
    np.testing.assert_allclose(
      state.ema, outputs[f'vae_train/ema_hit_{step}'], atol=1e-5
    )
    share = usage.usage_share(state, code_spec, features.shape[0])
    np.testing.assert_allclose(
      100 * share, outputs[f'vae_train/usages_{step}'], atol=1e-4
    )
  np.testing.assert_allclose(
    quantized.loss, outputs['vae_train/vq_loss_2'], atol=1e-4
  )
  assert int(state.updates) == 2 * len(code_spec.grids)


def _check_gradient(found, expected, name):
  # Some gradients are zero but for rounding, such as those of a key bias.
  tolerance = max(1e-3 * np.abs(expected).max(), _ZERO_GRADIENT)
  np.testing.assert_allclose(
    found, expected, rtol=0, atol=tolerance, err_msg=name
  )
